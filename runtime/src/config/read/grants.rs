//! `[consumers.NAME.grants]`.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use crate::config::grants::InvalidGrant;
use crate::config::keys::Table;
use crate::config::reader::{TableReader, Value, excerpt, name};
use crate::config::{DirGrant, Grants, HttpGrant, TcpGrant};

/// Where the grants stand that are checked against something outside the table; one for each grant.
#[derive(Default)]
pub(in crate::config) struct GrantSpans {
    /// The names of `send`.
    pub(in crate::config) send: Vec<Range<usize>>,
    /// The patterns of `send`.
    pub(in crate::config) send_subjects: Vec<Range<usize>>,
    /// The names of `secrets`.
    pub(in crate::config) secrets: Vec<Range<usize>>,
    /// The host folders of `dirs`.
    pub(in crate::config) dirs: Vec<Range<usize>>,
}

/// Reads the table. `folder` is what relative paths are relative to.
pub(super) fn read(table: TableReader<'_>, folder: &Path) -> (Grants, GrantSpans) {
    let (mut grants, mut spans) = (Grants::default(), GrantSpans::default());
    for item in table.get("send").iter().flat_map(|value| value.items("[\"audit\"]")) {
        let Some(text) = item.text("\"audit\"") else { continue };
        if text.value.contains(['*', '>']) {
            let Some(pattern) = item.pattern() else { continue };
            if grants.send_subjects.contains(&pattern) {
                item.refuse(format!("subjects `{pattern}` are granted twice"), "name them once");
                continue;
            }
            grants.send_subjects.push(pattern);
            spans.send_subjects.push(text.span);
            continue;
        }
        // Whether it is a queue or a subject, the file as a whole says.
        let Some(queue) = item.queue_name() else { continue };
        if grants.send.contains(&queue.value) {
            item.refuse(format!("`{}` is granted twice", queue.value), "name it once");
            continue;
        }
        grants.send.push(queue.value);
        spans.send.push(queue.span);
    }
    grants.http = servers(&table, "http", "[\"https://api.example\"]", HttpGrant::parse);
    grants.tcp = servers(&table, "tcp", "[\"mail.example:25\"]", TcpGrant::parse);
    for value in table.get("env").iter().flat_map(|value| value.named("`env = { NAME = \"value\" }`")) {
        if !names_a_variable(value.key) {
            value.refuse_key(format!("{} can't name an environment variable", name(value.key)), VARIABLE_RULE);
        } else if let Some(text) = value.text("\"value\"") {
            grants.env.insert(value.key.to_owned(), text.value.to_owned());
        }
    }
    for item in table.get("secrets").iter().flat_map(|value| value.items("[\"API_KEY\"]")) {
        let Some(text) = item.text("\"API_KEY\"") else { continue };
        let secret = text.value.to_owned();
        if !names_a_variable(&secret) {
            item.refuse(format!("{} can't name an environment variable", name(&secret)), VARIABLE_RULE);
        } else if grants.env.contains_key(&secret) {
            let hint = "what is in `env` is no secret: name it in one of the two";
            item.refuse(format!("{} is in `env` too", name(&secret)), hint);
        } else if grants.secrets.contains(&secret) {
            item.refuse(format!("{} is granted twice", name(&secret)), "name it once");
        } else {
            grants.secrets.push(secret);
            spans.secrets.push(text.span);
        }
    }
    let mut guests = BTreeSet::new();
    for item in table.get("dirs").iter().flat_map(|value| value.items(DIRS_EXAMPLE)) {
        let Some((grant, span)) = item.table(Table::Dir).and_then(|table| dir(table, folder, &mut guests)) else {
            continue;
        };
        grants.dirs.push(grant);
        spans.dirs.push(span);
    }
    grants.state = table.get("state").and_then(|value| value.flag()).unwrap_or(false);
    table.finish();
    (grants, spans)
}

pub(super) const VARIABLE_RULE: &str = "a name is not empty and has no `=` and no zero byte";

pub(super) fn names_a_variable(text: &str) -> bool {
    !text.is_empty() && !text.contains(['=', '\0'])
}

/// The servers that an array of texts names, in its order.
fn servers<T: PartialEq>(
    table: &TableReader<'_>,
    key: &str,
    example: &str,
    parse: fn(&str) -> Result<T, InvalidGrant>,
) -> Vec<T> {
    let mut servers = Vec::new();
    for item in table.get(key).iter().flat_map(|value| value.items(example)) {
        let Some(text) = item.text(example.trim_matches(['[', ']'])) else { continue };
        match parse(text.value) {
            Ok(server) if servers.contains(&server) => {
                item.refuse(format!("{:?} is granted twice", excerpt(text.value)), "name it once");
            }
            Ok(server) => servers.push(server),
            Err(error) => item.refuse(format!("{:?} {}", excerpt(text.value), error.problem), error.hint),
        }
    }
    servers
}

const DIRS_EXAMPLE: &str = "[{ host = \"templates\", guest = \"/templates\", access = \"read\" }]";

fn dir(table: TableReader<'_>, folder: &Path, guests: &mut BTreeSet<String>) -> Option<(DirGrant, Range<usize>)> {
    let host = table.require("host", "\"templates\"").and_then(|value| value.path("\"templates\""));
    let guest = table.require("guest", "\"/templates\"").and_then(|value| guest_path(&value, guests));
    let write = table.require("access", "\"read\"").and_then(|value| {
        let text = value.text("\"read\"")?;
        match text.value {
            "read" => Some(false),
            "read-write" => Some(true),
            other => {
                value.refuse(format!("{:?} is not an access", excerpt(other)), "write \"read\" or \"read-write\"");
                None
            }
        }
    });
    table.finish();
    let host = host?;
    Some((DirGrant { host: folder.join(host.value), guest: guest?, write: write? }, host.span))
}

/// The absolute name of a folder inside, without a slash at its end.
fn guest_path(value: &Value<'_>, taken: &mut BTreeSet<String>) -> Option<String> {
    let text = value.text("\"/templates\"")?.value;
    let Some(inside) = text.strip_prefix('/') else {
        let hint = format!("write {:?}", format!("/{}", excerpt(text)));
        value.refuse("`guest` must be an absolute path: it is the folder's name inside the sandbox", hint);
        return None;
    };
    let inside = inside.strip_suffix('/').unwrap_or(inside);
    if !inside.is_empty() && inside.split('/').any(|part| matches!(part, "" | "." | "..")) {
        value.refuse("`guest` has an empty, `.` or `..` part", "write the path without it");
        return None;
    }
    let path = format!("/{inside}");
    if !taken.insert(path.clone()) {
        value.refuse(
            format!("two folders are granted as {:?}", excerpt(&path)),
            "give each folder a name of its own inside the sandbox",
        );
        return None;
    }
    Some(path)
}
