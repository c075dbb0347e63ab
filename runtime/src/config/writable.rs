//! Folders that guests may write: nothing that the runtime itself goes by may depend on what is in them.
//!
//! Within its folder, a guest can put a link to anywhere in the place of anything. The sandbox follows no link out of the
//! folder, but the runtime would, when it looks up a path that leads through it: a folder that is granted below it, a file
//! that is followed. And whoever may write the code that runs outside of the sandbox (a package that is built, the compiled
//! code in the folder of the store) is not in it. So such files are refused, when they are checked and before they are taken
//! into use. Links in the paths are followed for that, mounts are not seen through. What a pattern stands for is known only
//! when it is looked up: files that links lead to by way of such a folder are refused there (`first_on_the_way`).

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::ops::Range;
use std::path::{self, Component, Path, PathBuf};

use glob::Pattern;

use super::Source;
use super::errors::ConfigError;
use super::producers::{After, MATCHING, ProducerKind, TailConfig};
use super::read::Document;
use super::reader::Errors;

/// What the kernel follows at most, too.
const LINKS_MAX: usize = 40;

/// A folder that is granted for writing, and where the file says so: none if it is the file in force that does.
struct Writable<'d> {
    span: Option<&'d Range<usize>>,
    place: Place,
}

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// Without links, as far as it is there.
    path: PathBuf,
    /// The folders in which a name was looked up: who may write one of them can make the path lead elsewhere.
    through: BTreeSet<PathBuf>,
}

impl Place {
    fn of(path: &Path) -> Place {
        let reversed = |path: &Path| -> Vec<OsString> {
            path.components().rev().map(|component| component.as_os_str().to_owned()).collect()
        };
        let mut rest = reversed(&path::absolute(path).unwrap_or_else(|_| path.to_owned()));
        let (mut at, mut through, mut links) = (PathBuf::from("/"), BTreeSet::new(), 0);
        while let Some(name) = rest.pop() {
            match Path::new(&name).components().next() {
                Some(Component::RootDir) => at = PathBuf::from("/"),
                Some(Component::ParentDir) => _ = at.pop(),
                Some(Component::Normal(_)) => {
                    let next = at.join(&name);
                    through.insert(at.clone());
                    match fs::read_link(&next) {
                        Ok(target) if links < LINKS_MAX => {
                            links += 1;
                            rest.extend(reversed(&target));
                        }
                        _ => at = next,
                    }
                }
                _ => {}
            }
        }
        Place { path: at, through }
    }

    fn is_below(&self, folder: &Place) -> bool {
        self.through.contains(&folder.path)
    }
}

/// The first of these folders that a path leads into, as things are: a name is looked up in it on the way. Who may write it
/// can change where the path leads from there, but not that it leads there.
pub(crate) fn first_on_the_way<'f>(path: &Path, folders: &'f [PathBuf]) -> Option<&'f Path> {
    if folders.is_empty() {
        return None;
    }
    let place = Place::of(path);
    folders.iter().map(PathBuf::as_path).find(|folder| place.is_below(&Place::of(folder)))
}

/// Checks the folders of all consumers. `file` is the document's own path. If it is to replace one in force, `in_force` are
/// the folders of that: while the file is taken into use, and until its deliveries have ended, its guests write there.
pub(super) fn check(document: &Document, file: &Path, in_force: &[PathBuf], errors: &Errors) {
    let consumers = document.consumers.iter();
    let granted = consumers.flat_map(|consumer| consumer.grants.dirs.iter().zip(&consumer.grant_spans.dirs));
    let granted: Vec<_> = granted.map(|(grant, span)| (grant.write, span, Place::of(&grant.host))).collect();
    let writable = granted.iter().filter(|(write, ..)| *write);
    let mut writable: Vec<_> =
        writable.map(|(_, span, place)| Writable { span: Some(span), place: place.clone() }).collect();
    let before = in_force.iter().map(|folder| Writable { span: None, place: Place::of(folder) });
    let before = before.filter(|before| writable.iter().all(|folder| folder.place.path != before.place.path));
    writable.extend(before.collect::<Vec<_>>());
    if writable.is_empty() {
        return;
    }
    for (_, span, place) in &granted {
        if let Some(outer) = writable.iter().find(|outer| place.is_below(&outer.place)) {
            let message =
                "this folder lies in one that guests may write, who could put a link to anywhere in its place";
            let hint = "grant folders that don't lie in one another, or the outer one with access = \"read\"";
            errors.push(refuse(span, message, hint, outer));
        }
    }
    own_files(document, file, &writable, errors);
    producers(document, &writable, errors);
}

fn refuse(span: &Range<usize>, message: &str, hint: &str, writable: &Writable<'_>) -> ConfigError {
    let error = ConfigError::at(span.clone(), message);
    match writable.span {
        Some(span) => error.related(span.clone(), "guests may write this one").hint(hint),
        None => error.hint(in_force(&writable.place)),
    }
}

/// What to do about a folder that guests may write for as long as the file in force is.
fn in_force(folder: &Place) -> String {
    let folder = folder.path.display();
    format!(
        "the file in force grants {folder} for writing: take that away in an edit of its own, and look for links there"
    )
}

/// What the runtime goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Own {
    /// One file.
    File,
    /// A folder with everything in it.
    Folder,
    /// Such a folder, that may not even be there, beside another one: who may write the folder that it is in has that, too.
    Beside,
}

/// What cargo goes by beside a package: its configuration in the folders above, and what the workspace has built.
fn beside(package: &Place) -> impl Iterator<Item = (&'static str, Place)> {
    package.path.ancestors().skip(1).flat_map(|above| {
        let workspace = above.join("Cargo.toml").is_file().then_some("target");
        [".cargo"].into_iter().chain(workspace).map(|name| (name, Place::of(&above.join(name))))
    })
}

/// What the runtime goes by must lie in no folder that guests may write; what it runs outside of the sandbox must hold none.
fn own_files(document: &Document, file: &Path, writable: &[Writable<'_>], errors: &Errors) {
    let mut own = vec![
        ("`data_dir`".to_owned(), Place::of(&document.runtime.data_dir), Own::Folder),
        ("this file".to_owned(), Place::of(file), Own::File),
    ];
    if let Some(file) = &document.runtime.ca_file {
        own.push(("`ca_file`".to_owned(), Place::of(file), Own::File));
    }
    if let Some(tls) = &document.runtime.tls {
        own.push(("the certificate of [runtime.tls]".to_owned(), Place::of(&tls.files.cert), Own::File));
        own.push(("the key of [runtime.tls]".to_owned(), Place::of(&tls.files.key), Own::File));
    }
    for consumer in &document.consumers {
        let name = consumer.name.as_deref().unwrap_or_default();
        match consumer.source.as_ref().map(|source| &source.value) {
            Some(Source::Package(folder)) => {
                let place = Place::of(folder);
                let beside = beside(&place).map(|(folder, place)| {
                    (format!("the `{folder}` that the source of `{name}` is built with"), place, Own::Beside)
                });
                own.extend(beside);
                own.push((format!("the source of `{name}`"), place, Own::Folder));
            }
            Some(Source::Component(file)) => {
                own.push((format!("the component of `{name}`"), Place::of(file), Own::File));
            }
            None => {}
        }
    }
    for folder in writable {
        let relation = |place: &Place, kind: Own| {
            Some(match place {
                place if place.path == folder.place.path && kind != Own::File => "is",
                place if place.is_below(&folder.place) && kind != Own::Beside => "holds",
                place if folder.place.is_below(place) && kind != Own::File => "lies in",
                _ => return None,
            })
        };
        let mut relations = own.iter().filter_map(|(what, place, kind)| Some((relation(place, *kind)?, what)));
        if let Some((verb, what)) = relations.next() {
            let second = relations.next().map(|(verb, what)| format!(" and {verb} {what}")).unwrap_or_default();
            let message = format!("guests may write this folder, which {verb} {what}{second}");
            let hint = match verb {
                "lies in" => "grant a folder outside of it",
                _ => "grant a folder that has nothing of the runtime's own in it, such as \"outbox\"",
            };
            errors.push(match folder.span {
                Some(span) => ConfigError::at(span.clone(), message).hint(hint),
                None => {
                    let message = format!("guests may write a folder which {verb} {what}{second}");
                    ConfigError::whole(message).hint(in_force(&folder.place))
                }
            });
        }
    }
}

/// What a producer reads, or moves files to, must not be where guests can put links.
fn producers(document: &Document, writable: &[Writable<'_>], errors: &Errors) {
    for producer in &document.producers {
        match &producer.kind {
            Some(ProducerKind::Tail(tail)) => {
                let TailConfig { files, .. } = tail;
                for (pattern, span) in files.iter().zip(&producer.spans.files) {
                    let (prefix, rest) = split(pattern);
                    let prefix = Place::of(&prefix);
                    if let Some(folder) = writable.iter().find(|folder| leads_into(&prefix, &rest, &folder.place)) {
                        let message =
                            "this leads into a folder that guests may write, whose links could have any file read";
                        let hint = "follow files elsewhere; a consumer that is to make messages can be granted `send`";
                        errors.push(refuse(span, message, hint, folder));
                    }
                }
            }
            Some(ProducerKind::Watch(watch)) => {
                let place = Place::of(&watch.folder);
                // Links in the watched folder itself are not followed, but folders in it are.
                let reaches = |folder: &Place| {
                    place.is_below(folder) || watch.recursive && (place == *folder || folder.is_below(&place))
                };
                if let Some(folder) = writable.iter().find(|folder| reaches(&folder.place))
                    && let Some(span) = &producer.spans.folder
                {
                    let message = "folders that guests may write are watched here, and links in the place of folders in \
                                   them could have any file read";
                    let hint = "watch the granted folder itself, without `recursive`";
                    errors.push(refuse(span, message, hint, folder));
                }
                if let After::Move(to) = &watch.after
                    && let Some(span) = &producer.spans.move_to
                {
                    let to = Place::of(to);
                    let reaches = |folder: &Place| to.is_below(folder) || to.path == folder.path;
                    if let Some(folder) = writable.iter().find(|folder| reaches(&folder.place)) {
                        let message =
                            "files are moved into a folder that guests may write, whose links could lead anywhere";
                        errors.push(refuse(span, message, "move them to another folder", folder));
                    }
                }
            }
            _ => {}
        }
    }
}

/// The beginning of a pattern that is one path, and the parts after it.
fn split(pattern: &str) -> (PathBuf, Vec<&str>) {
    let mut path = PathBuf::from(if pattern.starts_with('/') { "/" } else { "" });
    // `glob` drops these, too.
    let mut parts = pattern.split('/').filter(|part| !part.is_empty() && *part != ".").peekable();
    while let Some(plain) = parts.peek().and_then(|part| plain(part)) {
        path.push(plain);
        parts.next();
    }
    (path, parts.collect())
}

/// What a part of a pattern stands for if that is one name: without stars, and with single characters in brackets, which is
/// how they are escaped.
fn plain(part: &str) -> Option<String> {
    let mut plain = String::new();
    let mut rest = part.chars();
    while let Some(char) = rest.next() {
        match char {
            '*' | '?' => return None,
            '[' => {
                plain.push(rest.next()?);
                (rest.next() == Some(']')).then_some(())?;
            }
            char => plain.push(char),
        }
    }
    Some(plain)
}

/// Whether a pattern may name something in the folder or below it.
fn leads_into(prefix: &Place, rest: &[&str], folder: &Place) -> bool {
    if prefix.is_below(folder) {
        return true;
    }
    let Ok(between) = folder.path.strip_prefix(&prefix.path) else { return false };
    let names: Vec<_> = between.components().map(|name| name.as_os_str().to_string_lossy()).collect();
    let names: Vec<_> = names.iter().map(|name| &**name).collect();
    may_match_below(rest, &names)
}

fn may_match_below(pattern: &[&str], folders: &[&str]) -> bool {
    let Some((part, rest)) = pattern.split_first() else { return false };
    let Some((name, deeper)) = folders.split_first() else { return true };
    match *part {
        "**" => may_match_below(rest, folders) || may_match_below(pattern, deeper),
        // Where that leads depends on what is there.
        ".." => true,
        part => Pattern::new(part).is_ok_and(|part| part.matches_with(name, MATCHING)) && may_match_below(rest, deeper),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// What is said of a file in a folder: the beginnings of the messages.
    fn told(folder: &Path, text: &str) -> Vec<String> {
        match crate::config::parse_to_run(text, &folder.join("queue.toml")) {
            Ok(_) => Vec::new(),
            Err(errors) => errors.errors().iter().map(|error| error.message.clone()).collect(),
        }
    }

    /// Two consumers with one folder each, and what else the file says.
    fn file(one: (&str, &str), other: (&str, &str), more: &str) -> String {
        let consumer = |name: &str, (host, access): (&str, &str)| {
            format!(
                "[queues.{name}]\n[consumers.{name}]\nqueue = \"{name}\"\ncomponent = \"{name}.wasm\"\n\
                 grants.dirs = [{{ host = {host:?}, guest = \"/a\", access = {access:?} }}]\n"
            )
        };
        format!("{}{}{more}", consumer("one", one), consumer("other", other))
    }

    const LIES_IN: &str =
        "this folder lies in one that guests may write, who could put a link to anywhere in its place";

    #[test]
    fn a_folder_below_one_that_may_be_written_is_found_by_every_way_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("out/deep")).unwrap();
        fs::create_dir_all(root.join("elsewhere")).unwrap();
        symlink("out", root.join("link")).unwrap();
        symlink("out/deep", root.join("down")).unwrap();
        symlink("../elsewhere", root.join("out/away")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let beside = |host: &str, access: &str| told(root, &file(("out", "read-write"), (host, access), ""));
        let absolute = root.join("out/deep").display().to_string();
        for host in [
            "out/deep",
            "out/not-yet/there",
            "./out/../out/deep/",
            "link/deep",
            "down",
            // Where these lead now is not below it, but a guest can change that.
            "out/away",
            "out/deep/../../elsewhere",
            &absolute,
        ] {
            assert_eq!(beside(host, "read"), [LIES_IN], "{host}");
            assert_eq!(beside(host, "read-write"), [LIES_IN], "{host}");
            let turned = told(root, &file((host, "read"), ("link", "read-write"), ""));
            assert_eq!(turned, [LIES_IN], "{host}");
        }
        for host in ["out", "out/", "link", "elsewhere", "output", "not/yet", "loop", ".", ".."] {
            assert_eq!(beside(host, "read"), Vec::<String>::new(), "{host}");
        }
        let both = file(("out", "read"), ("out/deep", "read-write"), "");
        assert_eq!(told(root, &both), Vec::<String>::new(), "the outer one is only read");
    }

    #[test]
    fn an_edit_is_checked_against_the_folders_that_guests_still_write() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queue.toml");
        let old = |host| crate::config::parse_to_run(&file((host, "read-write"), ("b", "read"), ""), &path).unwrap();
        let edited = |old: &crate::config::Config, text: &str| -> Vec<(String, String)> {
            let errors = crate::config::parse_to_replace(text, &path, old).err();
            let errors = errors.iter().flat_map(|errors| errors.errors().to_vec());
            errors.map(|error| (error.message, error.hint.unwrap())).collect()
        };
        let in_force = old("out");
        let deeper = file(("elsewhere", "read-write"), ("out/templates", "read"), "");
        let told = edited(&in_force, &deeper);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].0, LIES_IN);
        assert!(
            told[0].1.starts_with("the file in force grants ") && told[0].1.contains("/out for writing"),
            "{told:?}"
        );
        let source = "[queues.third]\n[consumers.third]\nqueue = \"third\"\nsource = \"out/third\"\n";
        let source = file(("elsewhere", "read-write"), ("b", "read"), source);
        let told = edited(&in_force, &source);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].0, "guests may write a folder which holds the source of `third`");
        let tail = "[producers.p]\nkind = \"tail\"\nqueue = \"one\"\nfiles = [\"out/*.log\"]\n";
        let told = edited(&in_force, &file(("elsewhere", "read-write"), ("b", "read"), tail));
        assert!(told[0].0.starts_with("this leads into a folder that guests may write"), "{told:?}");
        // Once nobody writes there any more, it is as at a start; and what goes on as it was is no reason.
        for text in [&deeper, &source] {
            assert_eq!(edited(&old("elsewhere"), text), []);
        }
        assert_eq!(edited(&in_force, &file(("./out", "read-write"), ("out", "read"), "")), []);
    }

    #[test]
    fn the_runtimes_own_files_are_not_written_by_guests() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("etc/store")).unwrap();
        symlink("etc", root.join("link")).unwrap();
        symlink("link/store", root.join("data")).unwrap();
        let granted = |host: &str, more: &str| {
            let text = file((host, "read-write"), (host, "read"), more);
            told(root, &text)
                .into_iter()
                .map(|message| message.replace("guests may write this folder, which ", ""))
                .collect::<Vec<_>>()
        };
        let none = Vec::<String>::new();
        for (host, relation) in [
            (".", "holds `data_dir` and holds this file"),
            ("data", "is `data_dir`"),
            ("data/cache", "lies in `data_dir`"),
            ("etc/store/cache", "lies in `data_dir`"),
            ("link", "holds `data_dir`"),
            ("etc", "holds `data_dir`"),
        ] {
            assert_eq!(granted(host, ""), [relation], "{host}");
        }
        assert_eq!(granted("outbox", ""), none);
        let runtime = "[runtime]\nca_file = \"pki/ca.pem\"\n[runtime.tls]\ncert = \"pki/cert.pem\"\nkey = \"pki/key.pem\"\n\
                       name = \"queues.example\"\n";
        assert_eq!(granted("pki", runtime), ["holds `ca_file` and holds the certificate of [runtime.tls]"]);
        let more = "[queues.third]\n[consumers.third]\nqueue = \"third\"\nsource = \"plugins/third\"\n\
                    [queues.fourth]\n[consumers.fourth]\nqueue = \"fourth\"\ncomponent = \"wasm/fourth.wasm\"\n";
        for (host, relation) in [
            ("plugins", "holds the source of `third`"),
            ("plugins/third", "is the source of `third`"),
            ("plugins/third/src", "lies in the source of `third`"),
            ("wasm", "holds the component of `fourth`"),
        ] {
            assert_eq!(granted(host, more), [relation], "{host}");
        }
        assert_eq!(granted("plugins/other", more), none);
        // What cargo goes by.
        assert_eq!(granted("plugins/target/out", more), none, "there is no workspace");
        fs::create_dir(root.join("plugins")).unwrap();
        fs::write(root.join("plugins/Cargo.toml"), "[workspace]").unwrap();
        for (host, relation) in [
            ("plugins/target/out", "lies in the `target` that the source of `third` is built with"),
            ("plugins/.cargo", "is the `.cargo` that the source of `third` is built with"),
            (".cargo", "is the `.cargo` that the source of `third` is built with"),
            ("plugins", "holds the source of `third`"),
        ] {
            assert_eq!(granted(host, more), [relation], "{host}");
        }
        assert_eq!(granted("plugins/other", more), none);
        assert_eq!(granted("target", more), none);
        let hint = |host: &str| {
            let errors = crate::config::parse_to_run(&file((host, "read-write"), ("b", "read"), more), &root.join("q"));
            errors.unwrap_err().errors()[0].hint.clone().unwrap()
        };
        assert_eq!(hint("plugins/third/src"), "grant a folder outside of it");
        assert!(hint("plugins").starts_with("grant a folder that has nothing of the runtime's own"));
    }

    #[test]
    fn producers_do_not_read_where_guests_may_put_links() {
        let folder = tempfile::tempdir().unwrap();
        // A name that is a pattern, too.
        let root = &folder.path().join("a[b]c");
        fs::create_dir_all(root.join("logs/out/deep")).unwrap();
        fs::create_dir_all(root.join("inbox")).unwrap();
        symlink("logs/out", root.join("link")).unwrap();
        let with = |more: &str| told(root, &file(("logs/out", "read-write"), ("elsewhere", "read"), more));
        let tail =
            |files: &str| with(&format!("[producers.p]\nkind = \"tail\"\nqueue = \"one\"\nfiles = [{files:?}]\n"));
        let absolute = format!("{}/logs/out/*", Pattern::escape(&root.display().to_string()));
        for files in [
            "logs/out/*.log",
            "logs/out/a.log",
            "logs/o?t/a.log",
            "logs/*/a.log",
            "logs/**/*.log",
            "**/*.log",
            "logs/out/deep/../../a.log",
            "logs/*/../a.log",
            "logs/*/./*.log",
            "logs/./*/.//deep/./*.log",
            "link/a.log",
            "logs/[o]ut/*",
            &absolute,
        ] {
            assert_eq!(tail(files).len(), 1, "{files}: {:?}", tail(files));
            assert!(tail(files)[0].starts_with("this leads into a folder that guests may write"), "{files}");
        }
        for files in ["logs/*.log", "logs/out", "logs/output/*.log", "logs/*.d/*.log", "*.log", "../*.log", "logs/*"] {
            assert_eq!(tail(files), Vec::<String>::new(), "{files}");
        }
        // What the patterns match is looked up by the producer itself, which knows the folders.
        let text = "[producers.p]\nkind = \"tail\"\nqueue = \"one\"\nfiles = [\"logs/*.log\"]\n";
        let text = file(("logs/out", "read-write"), ("elsewhere", "read"), text);
        let config = crate::config::parse_to_run(&text, &root.join("queue.toml")).unwrap();
        let ProducerKind::Tail(tail) = &config.producers["p"].kind else { panic!("{config:?}") };
        assert_eq!(tail.writable, [root.join("logs/out")]);
        assert_eq!(first_on_the_way(&root.join("link/a.log"), &tail.writable), Some(&*root.join("logs/out")));
        assert_eq!(first_on_the_way(&root.join("logs/a.log"), &tail.writable), None);
        let watch = |keys: &str| with(&format!("[producers.p]\nkind = \"watch\"\nqueue = \"one\"\n{keys}\n"));
        for keys in [
            "folder = \"logs/out/deep\"",
            "folder = \"link/deep\"",
            "folder = \"logs/out\"\nrecursive = true",
            "folder = \"logs\"\nrecursive = true",
        ] {
            assert!(watch(keys)[0].starts_with("folders that guests may write are watched here"), "{keys}");
        }
        for to in ["logs/out", "logs/out/deep", "link/done"] {
            let told = watch(&format!("folder = \"inbox\"\nafter = \"move\"\nmove_to = {to:?}"));
            assert!(told[0].starts_with("files are moved into a folder that guests may write"), "{to}");
        }
        for keys in
            ["folder = \"logs/out\"", "folder = \"logs\"", "folder = \"inbox\"\nafter = \"move\"\nmove_to = \"done\""]
        {
            assert_eq!(watch(keys), Vec::<String>::new(), "{keys}");
        }
    }
}
