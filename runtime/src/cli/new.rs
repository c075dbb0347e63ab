//! `linecook new`: a consumer to begin with, and the lines of `queue.toml` that put it to work.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{CommandResult, Context, Failed, terminal};

/// The files of a new crate, and what is in them. `{{…}}` are filled in.
const FILES: [(&str, &str); 4] = [
    ("Cargo.toml", include_str!("new/Cargo.toml.template")),
    (".cargo/config.toml", include_str!("new/config.toml.template")),
    ("src/lib.rs", include_str!("new/lib.rs.template")),
    (".gitignore", "/target\n"),
];
/// As long as a consumer's name may be.
const NAME_BYTES_MAX: usize = 64;
/// Words that no crate can be called by: Rust's own, and the crates that every crate has.
const TAKEN: [&str; 48] = [
    "abstract",
    "alloc",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "const",
    "continue",
    "core",
    "crate",
    "do",
    "dyn",
    "else",
    "enum",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "proc_macro",
    "pub",
    "ref",
    "return",
    "self",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "trait",
    "true",
    "try",
    "type",
];

/// The arguments of `linecook new`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder to make; its last part is the name of the consumer, of its crate and of its queue
    #[arg(value_name = "NAME")]
    path: PathBuf,
    /// The folder of linecook-sdk; by default `sdk` beside or above the new folder, or else its repository
    #[arg(long, value_name = "FOLDER")]
    sdk: Option<PathBuf>,
}

/// Makes the crate, and prints what belongs in `queue.toml`: to stdout, so that `linecook new greet >> queue.toml` does it.
pub fn run(args: &Args, context: &Context) -> CommandResult {
    let path = &args.path;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    check_name(name)?;
    if path.symlink_metadata().is_ok() {
        return Err(Failed::new(format!("there is already something at {}", path.display()))
            .hint("choose another name, or remove it first"));
    }
    let sdk = sdk(args.sdk.as_deref(), path)?;
    write(path, name, &sdk)?;
    let shown = path.display();
    let told = format!(
        "made {shown}: a consumer with a test. Try `cd {shown} && cargo test`; this is for {}:\n\n",
        context.config_path.display()
    );
    // A closed stderr is no reason to fail: the crate is there.
    _ = io::stderr().write_all(told.as_bytes());
    terminal::print(declaration(name, &source(path, &context.config_path)).trim_end())
}

/// The name must do for a crate, for a consumer and for a queue.
fn check_name(name: &str) -> CommandResult {
    let refuse = |why: String| Err(Failed::new(why).hint("a good name looks like welcome-email"));
    if !name.starts_with(|c: char| c.is_ascii_lowercase())
        || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
    {
        return refuse(format!(
            "{name:?} can't name a consumer: it is made of small letters, digits, `-` and `_`, and starts with a letter"
        ));
    }
    if name.len() > NAME_BYTES_MAX {
        return refuse(format!("{name:?} can't name a consumer: it has more than {NAME_BYTES_MAX} characters"));
    }
    if TAKEN.contains(&&*name.replace('-', "_")) {
        return refuse(format!("{name:?} can't name a consumer: to Rust, it means something else"));
    }
    Ok(())
}

/// What the manifest says about where the SDK is.
fn sdk(wanted: Option<&Path>, new: &Path) -> Result<String, Failed> {
    let is_sdk = |folder: &Path| {
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap_or_default();
        manifest.lines().any(|line| line.trim() == "name = \"linecook-sdk\"")
    };
    if let Some(folder) = wanted {
        let Some(absolute) = fs::canonicalize(folder).ok().filter(|folder| is_sdk(folder)) else {
            return Err(Failed::new(format!("there is no linecook-sdk in {}", folder.display()))
                .hint("name the folder whose Cargo.toml says `name = \"linecook-sdk\"`"));
        };
        return Ok(format!("path = {:?}", absolute.to_string_lossy()));
    }
    // The folder above the new one need not be there yet: look from the first that is.
    let absolute =
        std::path::absolute(new).map_err(|error| Failed::new("can't find the working folder").because(error))?;
    for (depth, above) in absolute.ancestors().skip(1).enumerate() {
        if is_sdk(&above.join("sdk")) {
            return Ok(format!("path = \"{}sdk\"", "../".repeat(depth + 1)));
        }
    }
    Ok(format!("git = {:?}, version = {:?}", env!("CARGO_PKG_REPOSITORY"), env!("CARGO_PKG_VERSION")))
}

fn write(path: &Path, name: &str, sdk: &str) -> CommandResult {
    let failed = |path: &Path| {
        let heading = format!("can't write {}", path.display());
        move |error: io::Error| Failed::new(heading).because(error)
    };
    for (file, template) in FILES {
        let file = path.join(file);
        let folder = file.parent().unwrap_or(path);
        fs::create_dir_all(folder).map_err(failed(folder))?;
        let content = template.replace("{{name}}", name).replace("{{sdk}}", sdk);
        fs::write(&file, content).map_err(failed(&file))?;
    }
    Ok(())
}

/// The new folder as `queue.toml` names it: relative to itself, if it lies below.
fn source(new: &Path, config: &Path) -> String {
    let folder = config.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (Ok(new), Ok(folder)) = (fs::canonicalize(new), fs::canonicalize(folder)) else {
        return new.to_string_lossy().into_owned();
    };
    new.strip_prefix(&folder).unwrap_or(&new).to_string_lossy().into_owned()
}

fn declaration(name: &str, source: &str) -> String {
    format!(
        "[queues.{name}]\n\n[consumers.{name}]\nqueue = \"{name}\"\nsource = {source:?}\n\n# Nothing is granted that is \
         not here.\n[consumers.{name}.grants]\n# send = [\"audit\"]\n# env = {{ FROM = \"hello@example.com\" }}\n# dirs = [{{ \
         host = \"outbox\", guest = \"/outbox\", access = \"read-write\" }}]\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_must_do_for_a_crate_a_consumer_and_a_queue() {
        for good in ["a", "greet", "welcome-email", "log_summary", "v2", &"x".repeat(64)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in
            ["", "9lives", "-x", "_x", "Greet", "größe", "a b", "a.b", "fn", "proc-macro", "test", &"x".repeat(65)]
        {
            let told = check_name(bad).unwrap_err().render(false);
            assert!(told.contains("can't name a consumer") && told.contains("hint: "), "{bad}: {told}");
        }
    }

    #[test]
    fn the_sdk_is_found_beside_and_above_or_else_in_its_repository() {
        let folder = tempfile::tempdir().unwrap();
        let new = folder.path().join("plugins/greet");
        assert!(sdk(None, &new).unwrap().starts_with("git = \"https://"), "nothing is there");
        fs::create_dir_all(folder.path().join("sdk")).unwrap();
        fs::write(folder.path().join("sdk/Cargo.toml"), "[package]\nname = \"other\"\n").unwrap();
        assert!(sdk(None, &new).unwrap().starts_with("git = "), "another crate is there");
        fs::write(folder.path().join("sdk/Cargo.toml"), "[package]\nname = \"linecook-sdk\"\n").unwrap();
        assert_eq!(sdk(None, &new).unwrap(), "path = \"../../sdk\"");
        assert_eq!(sdk(None, &folder.path().join("greet")).unwrap(), "path = \"../sdk\"");
        assert!(sdk(Some(&folder.path().join("sdk")), &new).unwrap().starts_with("path = \"/"));
        let told = sdk(Some(folder.path()), &new).unwrap_err().render(false);
        assert!(told.contains("there is no linecook-sdk in"), "{told}");
    }

    #[test]
    fn what_is_to_be_pasted_is_a_whole_queue_toml() {
        let text = declaration("greet", "plugins/greet");
        let config = crate::config::parse(&text, Path::new("queue.toml")).unwrap();
        assert_eq!(config.consumers["greet"].queue.as_str(), "greet");
        assert_eq!(config.consumers["greet"].source, crate::config::Source::Package("plugins/greet".into()));
        // What is commented out is right, too, but for a queue that it names.
        let granted =
            text.replace("# send", "send").replace("# env", "env").replace("# dirs", "dirs") + "[queues.audit]\n";
        assert_eq!(
            crate::config::parse(&granted, Path::new("queue.toml")).unwrap().consumers["greet"].grants.dirs.len(),
            1
        );
    }
}
