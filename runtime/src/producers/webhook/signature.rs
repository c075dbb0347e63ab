//! Whether a request comes from who knows the secret: HMAC-SHA256, compared in constant time.
//!
//! GitHub: `X-Hub-Signature-256: sha256=HEX` over the body. Stripe: `Stripe-Signature: t=SECONDS,v1=HEX[,v1=HEX…]` over
//! `SECONDS.BODY`; several `v1` are there while a secret is being replaced, and one that is right is enough.
//!
//! There may be several secrets on this side, too: GitHub signs with one at a time, so whoever replaces it has to accept
//! both for a while.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderValue};
use sha2::Sha256;

use crate::config::producers::SignatureStyle;
use crate::producers::clock::Clock;

const GITHUB: &str = "x-hub-signature-256";
const STRIPE: &str = "stripe-signature";

/// A signature is 32 bytes, as text of twice that length.
const SIGNATURE_BYTES: usize = 32;
/// Signatures in one header that are looked at: more than any provider sends.
const SIGNATURES_MAX: usize = 16;

type Key = Hmac<Sha256>;

/// Checks the signatures of one webhook's requests.
pub struct Verifier(Style);

enum Style {
    None,
    Github { keys: Vec<Key> },
    Stripe { keys: Vec<Key>, tolerance: Duration, clock: Arc<dyn Clock> },
}

/// Why a request is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// No signature at all.
    #[error("the header {0} is missing: the provider must know the secret")]
    Missing(&'static str),
    /// Not a signature.
    #[error("the header {0} is not a signature")]
    Malformed(&'static str),
    /// Another secret, or another body.
    #[error("the signature in {0} is not that of this body: is it the same secret on both sides?")]
    Wrong(&'static str),
    /// Signed too long ago, or in the future.
    #[error("it was signed at a time that is too far from now: is the clock right?")]
    Time,
}

impl Verifier {
    /// For a style of signatures, with the secrets.
    pub fn new(style: &SignatureStyle, secrets: &[impl AsRef<str>], clock: Arc<dyn Clock>) -> Verifier {
        let key = |secret: &str| Hmac::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
        let keys = secrets.iter().map(|secret| key(secret.as_ref())).collect();
        Verifier(match style {
            SignatureStyle::None => Style::None,
            SignatureStyle::Github { .. } => Style::Github { keys },
            SignatureStyle::Stripe { tolerance, .. } => Style::Stripe { keys, tolerance: *tolerance, clock },
        })
    }

    /// Checks the signature of a request.
    ///
    /// # Errors
    /// It is missing, malformed, wrong or too old.
    pub fn verify(&self, headers: &HeaderMap, body: &[u8]) -> Result<(), SignatureError> {
        match &self.0 {
            Style::None => Ok(()),
            Style::Github { keys } => {
                let header = only(headers, GITHUB)?;
                let signature = header.as_bytes().strip_prefix(b"sha256=").and_then(hexadecimal);
                let signature = signature.ok_or(SignatureError::Malformed(GITHUB))?;
                if is_any_right(keys, &[body], &[signature]) { Ok(()) } else { Err(SignatureError::Wrong(GITHUB)) }
            }
            Style::Stripe { keys, tolerance, clock } => {
                let header = only(headers, STRIPE)?;
                let header = header.to_str().map_err(|_| SignatureError::Malformed(STRIPE))?;
                let (time, signatures) = parts(header).ok_or(SignatureError::Malformed(STRIPE))?;
                if !is_any_right(keys, &[time.as_bytes(), b".", body], &signatures) {
                    return Err(SignatureError::Wrong(STRIPE));
                }
                let signed_s: u64 = time.parse().map_err(|_| SignatureError::Malformed(STRIPE))?;
                if signed_s.abs_diff(clock.now_ms() / 1000) > tolerance.as_secs() {
                    return Err(SignatureError::Time);
                }
                Ok(())
            }
        }
    }
}

/// Whether one of the signatures is that of the text with one of the keys. All are compared with all, so that the time says
/// nothing about which one is right.
fn is_any_right(keys: &[Key], text: &[&[u8]], signatures: &[[u8; SIGNATURE_BYTES]]) -> bool {
    let mut right = 0;
    for key in keys {
        let mac = text.iter().fold(key.clone(), Mac::chain_update);
        right += signatures.iter().filter(|signature| mac.clone().verify_slice(&signature[..]).is_ok()).count();
    }
    right > 0
}

/// The header, which must be there once.
fn only<'h>(headers: &'h HeaderMap, name: &'static str) -> Result<&'h HeaderValue, SignatureError> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().ok_or(SignatureError::Missing(name))?;
    if values.next().is_some() { Err(SignatureError::Malformed(name)) } else { Ok(value) }
}

/// The time and the signatures of Stripe's header. Other schemes in it (`v0`) are not for us.
fn parts(header: &str) -> Option<(&str, Vec<[u8; SIGNATURE_BYTES]>)> {
    let mut time = None;
    let mut signatures = Vec::new();
    for part in header.split(',') {
        match part.trim().split_once('=')? {
            ("t", text) if time.is_none() && text.bytes().all(|byte| byte.is_ascii_digit()) => time = Some(text),
            ("t", _) => return None,
            ("v1", text) if signatures.len() < SIGNATURES_MAX => signatures.extend(hexadecimal(text.as_bytes())),
            _ => {}
        }
    }
    if signatures.is_empty() { None } else { Some((time?, signatures)) }
}

fn hexadecimal(text: &[u8]) -> Option<[u8; SIGNATURE_BYTES]> {
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    let mut bytes = [0; SIGNATURE_BYTES];
    if text.len() != 2 * SIGNATURE_BYTES {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

impl fmt::Debug for Verifier {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Style::None => "Verifier(none)",
            Style::Github { .. } => "Verifier(github)",
            Style::Stripe { .. } => "Verifier(stripe)",
        })
    }
}
