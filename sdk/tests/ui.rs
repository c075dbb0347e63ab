//! What the compiler says about a `#[consumer]` that is none: a plain sentence, at the place that is wrong.
//!
//! After a change that is meant, write the texts anew with `TRYBUILD=overwrite cargo test -p linecook-sdk --test ui`, and read
//! the difference.

#[test]
fn a_wrong_signature_is_told_in_a_plain_sentence() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/ui/good-*.rs");
    cases.compile_fail("tests/ui/bad-*.rs");
}
