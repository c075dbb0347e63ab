//! What one message may carry, whichever way it comes in. Sizes are bytes.

/// The body of one message: 1 MiB. One byte more is refused.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// An ordering key.
pub const KEY_BYTES_MAX: usize = 512;
/// An idempotency key.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 512;
/// A content type.
pub const CONTENT_TYPE_BYTES_MAX: usize = 256;
/// Attributes of one message.
pub const ATTRIBUTES_MAX: usize = 64;
/// The name of one attribute.
pub const ATTRIBUTE_NAME_BYTES_MAX: usize = 256;
/// The value of one attribute.
pub const ATTRIBUTE_VALUE_BYTES_MAX: usize = 8 << 10;

/// What a message that waits to be put on record takes in memory beside its bytes, more or less.
pub const MESSAGE_BYTES: u64 = 256;
/// What each of its attributes takes.
pub const ATTRIBUTE_BYTES: u64 = 64;
