//! Values of attributes: as texts in headers, and with their types in JSON.

use std::borrow::Cow;

use serde_json::Value;

/// What an extension is in JSON if it is no text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Integer,
    Boolean,
}

impl Type {
    fn name(self) -> &'static str {
        match self {
            Type::Integer => "integer",
            Type::Boolean => "boolean",
        }
    }

    /// A text as a value of this type. One that can't be (somebody else wrote it) stays a text.
    fn value(self, text: &str) -> Option<Value> {
        let value = match self {
            Type::Integer => Value::from(text.parse::<i32>().ok()?),
            Type::Boolean => Value::from(text.parse::<bool>().ok()?),
        };
        // Its one way to be written (`+7` is none), so that nothing is lost.
        let written = value.to_string();
        (written == text).then_some(value)
    }
}

/// The types of these extensions, as the one text that goes with a message.
pub(super) fn types_text<'a>(types: impl IntoIterator<Item = (&'a str, Type)>) -> String {
    let named: Vec<_> = types.into_iter().map(|(name, of)| format!("{name}={}", of.name())).collect();
    named.join(" ")
}

/// An extension's value in JSON, by the text of the types.
pub(super) fn typed(types: &str, name: &str, text: &str) -> Value {
    let named = types.split(' ').filter_map(|one| one.split_once('=')).find(|(other, _)| *other == name);
    let of = named.and_then(|(_, of)| [Type::Integer, Type::Boolean].into_iter().find(|known| known.name() == of));
    of.and_then(|of| of.value(text)).unwrap_or_else(|| text.into())
}

/// A value as a header may hold it: what is not visible ASCII is percent-encoded, and so are quotes and percent signs.
pub(super) fn percent_encoded(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'!'..=b'~' if !matches!(byte, b'"' | b'%') => encoded.push(char::from(byte)),
            _ => {
                let digit = |half: u8| char::from_digit(half.into(), 16).unwrap_or_default().to_ascii_uppercase();
                encoded.extend(['%', digit(byte >> 4), digit(byte & 15)]);
            }
        }
    }
    encoded
}

/// The value that a header holds; none if what it encodes is no UTF-8. What is no escape stands for itself.
pub(super) fn decoded(header: &str) -> Option<Cow<'_, str>> {
    match unquoted(header) {
        Cow::Borrowed(text) => percent_decoded(text),
        Cow::Owned(text) => Some(percent_decoded(&text)?.into_owned().into()),
    }
}

/// What stands in quotes, if all of it does, as older versions of the specification write it.
fn unquoted(text: &str) -> Cow<'_, str> {
    let Some(inner) = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else { return text.into() };
    if !inner.contains(['"', '\\']) {
        return inner.into();
    }
    let (mut plain, mut characters) = (String::with_capacity(inner.len()), inner.chars());
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some(escaped) => plain.push(escaped),
                // The last quote is escaped: the text does not end there.
                None => return text.into(),
            },
            '"' => return text.into(),
            _ => plain.push(character),
        }
    }
    plain.into()
}

fn percent_decoded(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(text.into());
    }
    let (bytes, mut decoded, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    while let Some(byte) = bytes.get(at) {
        match (byte, digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high << 4 | low) as u8);
                at += 3;
            }
            _ => {
                decoded.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn header_values_are_decoded_as_the_specification_says() {
        for (header, value) in [
            ("a%20b", Some("a b")),
            ("Euro%20%E2%82%AC%20%F0%9F%98%80", Some("Euro € 😀")),
            ("%e2%82%ac", Some("€")),
            // Needlessly encoded, and encoded twice: one round is undone.
            ("%61%2525", Some("a%25")),
            ("100%", Some("100%")),
            ("%zz", Some("%zz")),
            (r#""quoted text""#, Some("quoted text")),
            (r#""a \"b\" \\ %41""#, Some(r#"a "b" \ A"#)),
            (r#"say "hi""#, Some(r#"say "hi""#)),
            (r#""a" b "c""#, Some(r#""a" b "c""#)),
            (r#""open\""#, Some(r#""open\""#)),
            (r#"""#, Some(r#"""#)),
            ("%FF", None),
            // An overlong space.
            ("%C0%A0", None),
            // Half of a surrogate pair.
            ("%ED%A0%80", None),
        ] {
            assert_eq!(decoded(header).as_deref(), value, "{header}");
        }
    }

    #[test]
    fn header_values_are_encoded_as_the_specification_says() {
        assert_eq!(percent_encoded("Euro € 😀"), "Euro%20%E2%82%AC%20%F0%9F%98%80");
        assert_eq!(percent_encoded("a\"b%c~!\u{7f}\n"), "a%22b%25c~!%7F%0A");
    }

    #[test]
    fn only_what_is_of_the_type_has_it() {
        let types = types_text([("count", Type::Integer), ("on", Type::Boolean)]);
        assert_eq!(types, "count=integer on=boolean");
        for (name, text, value) in [
            ("count", "-7", json!(-7)),
            ("count", "+7", json!("+7")),
            ("count", "007", json!("007")),
            ("count", "99999999999", json!("99999999999")),
            ("on", "true", json!(true)),
            ("on", "1", json!("1")),
            ("other", "7", json!("7")),
        ] {
            assert_eq!(typed(&types, name, text), value, "{name} {text}");
        }
        assert_eq!(typed("count=float = ==", "count", "7"), json!("7"));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_to_the_same(value in "\\PC*") {
            let header = percent_encoded(&value);
            prop_assert!(header.bytes().all(|byte| (b'!'..=b'~').contains(&byte)));
            let back = decoded(&header);
            prop_assert_eq!(back.as_deref(), Some(value.as_str()));
        }

        #[test]
        fn no_header_panics(header in r#"(%|"|\\|[0-9a-f]|é|\PC){0,12}"#) {
            _ = decoded(&header);
        }
    }
}
