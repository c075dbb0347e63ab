//! What is wrong with a `queue.toml`: every error with its place, a caret under it, and a hint.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet, normalize_untrusted_str};

/// Errors that are rendered at most. Programs get all of them.
const RENDERED_MAX: usize = 50;

/// Everything that is wrong with one file, in the order of the file. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    path: PathBuf,
    /// Empty if the file could not be read.
    text: String,
    errors: Vec<ConfigError>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// What is wrong, in one line.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Where it is. `None` if it is about the file as a whole.
    pub position: Option<Position>,
    /// The bytes of the text that it is about. `None` if there is no text to show.
    pub span: Option<Range<usize>>,
    /// Another place that explains it, and what is there.
    pub related: Option<(Range<usize>, String)>,
}

/// A place in a file. Both count from 1; columns are characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The character within the line.
    pub column: usize,
}

impl Position {
    /// The place of a byte offset. An offset within a character counts as the character.
    pub(super) fn of(text: &str, offset: usize) -> Position {
        let before = &text[..text.floor_char_boundary(offset)];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Position {
            line: before.bytes().filter(|byte| *byte == b'\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

impl ConfigError {
    /// An error about these bytes of the text.
    pub(super) fn at(span: Range<usize>, message: impl Into<String>) -> ConfigError {
        ConfigError { span: Some(span), ..ConfigError::whole(message) }
    }

    /// An error about the file as a whole.
    pub(super) fn whole(message: impl Into<String>) -> ConfigError {
        ConfigError { message: message.into(), hint: None, position: None, span: None, related: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> ConfigError {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn related(mut self, span: Range<usize>, label: impl Into<String>) -> ConfigError {
        self.related = Some((span, label.into()));
        self
    }
}

impl ConfigErrors {
    /// Gives every error its position, and puts them into the order of the file. There must be at least one.
    pub(super) fn new(path: &Path, text: impl Into<String>, mut errors: Vec<ConfigError>) -> ConfigErrors {
        let text = text.into();
        for error in &mut errors {
            for span in error.span.iter_mut().chain(error.related.iter_mut().map(|(span, _)| span)) {
                *span = clip(&text, span);
            }
            if let Some(span) = &error.span {
                error.position = Some(Position::of(&text, span.start));
            }
        }
        errors.sort_by_key(|error| error.span.as_ref().map_or(0, |span| span.start));
        ConfigErrors { path: path.to_owned(), text, errors }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All errors, in the order of the file.
    pub fn errors(&self) -> &[ConfigError] {
        &self.errors
    }

    /// The text for people, with a line end after it.
    pub fn render(&self, colours: bool) -> String {
        let renderer = if colours { Renderer::styled() } else { Renderer::plain() };
        let path = self.path.to_string_lossy();
        let mut out = String::new();
        for (index, error) in self.errors.iter().take(RENDERED_MAX).enumerate() {
            if index > 0 {
                out.push('\n');
            }
            out.push_str(&renderer.render(&[self.group(error, &path)]));
            out.push('\n');
        }
        if let Some(more @ 1..) = self.errors.len().checked_sub(RENDERED_MAX) {
            out.push_str(&format!("\nerror: {path} has {more} more errors; `linecook check --json` shows them all\n"));
        }
        out
    }

    fn group<'a>(&'a self, error: &'a ConfigError, path: &'a str) -> Group<'a> {
        let mut group = Group::with_title(Level::ERROR.primary_title(&error.message));
        if let Some(span) = &error.span {
            let mut snippet =
                Snippet::source(&self.text).path(path).annotation(AnnotationKind::Primary.span(span.clone()));
            if let Some((span, label)) = &error.related {
                snippet = snippet.annotation(AnnotationKind::Context.span(span.clone()).label(label));
            }
            group = group.element(snippet);
        } else if let Some(position) = error.position {
            group = group.element(Origin::path(path).line(position.line).char_column(position.column));
        }
        match &error.hint {
            Some(hint) => group.element(Level::HELP.with_name("hint").message(normalize_untrusted_str(hint))),
            None => group,
        }
    }
}

/// A span that lies within the text, on character boundaries, and on one line, so that there is one caret line.
fn clip(text: &str, span: &Range<usize>) -> Range<usize> {
    let start = text.floor_char_boundary(span.start);
    let end = text.ceil_char_boundary(span.end).max(start);
    let line = text[start..end].find(['\r', '\n']).map_or(end, |length| start + length);
    start..line
}

impl fmt::Display for ConfigErrors {
    /// As [`ConfigErrors::render`] without colours and the last line end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(false).trim_end())
    }
}

impl std::error::Error for ConfigErrors {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_from_one_and_in_characters() {
        let text = "a\nhé = 1\n";
        assert_eq!(Position::of(text, 0), Position { line: 1, column: 1 });
        assert_eq!(Position::of(text, 2), Position { line: 2, column: 1 });
        assert_eq!(Position::of(text, 5), Position { line: 2, column: 3 });
        assert_eq!(Position::of(text, 999), Position { line: 3, column: 1 });
    }

    #[test]
    fn a_span_is_clipped_to_the_text_and_to_one_line() {
        assert_eq!(clip("a = [\n1]", &(4..8)), 4..5);
        assert_eq!(clip("ä", &(1..7)), 0..2);
        assert_eq!(clip("", &(3..9)), 0..0);
    }

    #[test]
    fn more_errors_than_a_person_reads_are_counted() {
        let errors = (0..RENDERED_MAX + 2).map(|_| ConfigError::at(0..1, "bad")).collect();
        let rendered = ConfigErrors::new(Path::new("queue.toml"), "x", errors).render(false);
        assert_eq!(rendered.matches("error: bad").count(), RENDERED_MAX);
        assert!(rendered.ends_with("has 2 more errors; `linecook check --json` shows them all\n"), "{rendered}");
    }
}
