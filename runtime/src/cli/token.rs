//! `linecook token`: tokens for `[runtime.auth]`.

use std::io::Write;
use std::time::{Duration, SystemTime};

use humantime::format_rfc3339_seconds;

use super::{CommandResult, Failed, terminal};
use crate::auth::{Scope, TokenHash, new_token};
use crate::config::units::parse_duration;

/// The arguments of `linecook token`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a token: it is shown once, with the lines for queue.toml, which hold only its hash
    New(New),
}

#[derive(Debug, clap::Args)]
struct New {
    /// What it is good for: send, consume or admin, and the queues or subjects, such as send:orders.*; several times for more
    #[arg(long = "scope", value_name = "SCOPE", required = true)]
    scopes: Vec<Scope>,
    /// What queue.toml calls it
    #[arg(long, default_value = "client", value_parser = name)]
    name: String,
    /// For how long it is good, such as 90d; by default for ever
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    expires: Option<Duration>,
    /// Print only the token on stdout, and the lines for queue.toml on stderr
    #[arg(long)]
    quiet: bool,
}

/// Makes it, and prints it.
pub fn run(args: &Args) -> CommandResult {
    let Command::New(new) = &args.command;
    let token = new_token().map_err(|error| Failed::new("there are no random numbers").because(error))?;
    let scopes: Vec<_> = new.scopes.iter().map(|scope| format!("{:?}", scope.to_string())).collect();
    let expires =
        new.expires.map(|after| format!("expires = \"{}\"\n", format_rfc3339_seconds(SystemTime::now() + after)));
    let lines = format!(
        "[runtime.auth.tokens.{}]\nsha256 = \"{}\"\nscopes = [{}]\n{}",
        new.name,
        TokenHash::of(&token),
        scopes.join(", "),
        expires.unwrap_or_default()
    );
    if new.quiet {
        // A closed stderr is no reason to keep the token back.
        _ = std::io::stderr().write_all(lines.as_bytes());
        return terminal::print(token);
    }
    terminal::print(format!(
        "The token, which is shown only now:\n\n    {token}\n\nPut this into queue.toml:\n\n{lines}\n\
         Clients send it as \"Authorization: Bearer TOKEN\"; linecook reads it from LINECOOK_TOKEN or --token-file."
    ))
}

fn name(text: &str) -> Result<String, String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if text.is_empty() || text.len() > 64 || !text.bytes().all(good) {
        return Err("a name has letters, digits, - and _, at most 64".to_owned());
    }
    Ok(text.to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| format!("{error}; {}", error.hint()))
}
