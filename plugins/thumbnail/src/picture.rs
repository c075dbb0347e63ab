//! From the bytes of a picture to the bytes of its thumbnail. No files, no queues.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};
use linecook_sdk::Failure;

/// The longest side of a thumbnail, in pixels.
const SIDE_MAX: u32 = 256;

/// Memory for unpacking a picture: 40 megapixels of 4 bytes, and some room for the decoder. A few kilobytes can claim
/// to be gigabytes.
const UNPACKED_BYTES_MAX: u64 = 192 << 20;

/// A thumbnail, and what it was made of.
#[derive(Debug)]
pub(crate) struct Thumbnail {
    /// The file's content.
    pub(crate) png: Vec<u8>,
    /// Of the thumbnail, in pixels.
    pub(crate) width: u32,
    /// Of the thumbnail, in pixels.
    pub(crate) height: u32,
    /// Of the picture as it is stored, in pixels. (A camera may say beside it that it is to be turned.)
    pub(crate) source_width: u32,
    /// Of the picture as it is stored, in pixels.
    pub(crate) source_height: u32,
    /// `jpeg`, `png`, `gif` or `webp`.
    pub(crate) format: &'static str,
}

/// Makes the thumbnail: the picture upright, its aspect kept, never enlarged. Of an animation, the first frame.
///
/// # Errors
///
/// A dead letter, if the bytes are no such picture, are damaged, or need too much memory.
pub(crate) fn thumbnail(bytes: &[u8]) -> Result<Thumbnail, Failure> {
    let (format, name) = format(bytes)?;
    let (picture, orientation) = unpack(bytes, format).map_err(|error| match error {
        ImageError::Limits(error) => Failure::dead_letter(format_args!(
            "the picture ({name}) needs too much memory when it is unpacked: {error}"
        )),
        error => Failure::dead_letter(format_args!("the picture ({name}) can't be read: {error}")),
    })?;
    let (source_width, source_height) = (picture.width(), picture.height());

    let mut small = match source_width.max(source_height) {
        0..=SIDE_MAX => picture,
        _ => picture.thumbnail(SIDE_MAX, SIDE_MAX),
    };
    small.apply_orientation(orientation);
    let small = eight_bits(small);

    let mut png = Vec::new();
    small.write_to(&mut Cursor::new(&mut png), ImageFormat::Png)?;
    Ok(Thumbnail { png, width: small.width(), height: small.height(), source_width, source_height, format: name })
}

/// What the bytes begin like. What a sender calls them does not matter.
fn format(bytes: &[u8]) -> Result<(ImageFormat, &'static str), Failure> {
    match image::guess_format(bytes) {
        Ok(format @ ImageFormat::Jpeg) => Ok((format, "jpeg")),
        Ok(format @ ImageFormat::Png) => Ok((format, "png")),
        Ok(format @ ImageFormat::Gif) => Ok((format, "gif")),
        Ok(format @ ImageFormat::WebP) => Ok((format, "webp")),
        _ => Err(Failure::dead_letter("the body is no picture: JPEG, PNG, GIF or WebP are expected")),
    }
}

fn unpack(bytes: &[u8], format: ImageFormat) -> Result<(DynamicImage, Orientation), ImageError> {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(UNPACKED_BYTES_MAX);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder()?;
    // The result's own memory first; what is left is the decoder's.
    limits.reserve(decoder.total_bytes())?;
    decoder.set_limits(limits)?;
    let orientation = decoder.orientation()?;
    Ok((DynamicImage::from_decoder(decoder)?, orientation))
}

/// Nobody sees more than 8 bits a channel in a thumbnail, and not everything shows it.
fn eight_bits(image: DynamicImage) -> DynamicImage {
    match image {
        DynamicImage::ImageLuma8(_)
        | DynamicImage::ImageLumaA8(_)
        | DynamicImage::ImageRgb8(_)
        | DynamicImage::ImageRgba8(_) => image,
        wide if wide.color().has_alpha() => wide.into_rgba8().into(),
        wide => wide.into_rgb8().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHOTO: &[u8] = include_bytes!("../testdata/photo.jpg");

    fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.into().write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    /// The dimensions of the thumbnail, which are those of the PNG.
    fn dimensions(bytes: &[u8]) -> (u32, u32) {
        let thumbnail = thumbnail(bytes).unwrap();
        let png = image::load_from_memory_with_format(&thumbnail.png, ImageFormat::Png).unwrap();
        assert_eq!((png.width(), png.height()), (thumbnail.width, thumbnail.height));
        (thumbnail.width, thumbnail.height)
    }

    fn dead_letter(bytes: &[u8]) -> String {
        match thumbnail(bytes) {
            Err(Failure::DeadLetter { reason }) => reason,
            other => panic!("must be a dead letter: {other:?}"),
        }
    }

    #[test]
    fn every_format_is_read() {
        let picture = image::RgbaImage::from_fn(300, 100, |x, y| image::Rgba([x as u8, y as u8, 7, 255]));
        for (format, name) in [(ImageFormat::Png, "png"), (ImageFormat::Gif, "gif"), (ImageFormat::WebP, "webp")] {
            let bytes = encoded(picture.clone(), format);
            assert_eq!(thumbnail(&bytes).unwrap().format, name);
            assert_eq!(dimensions(&bytes), (256, 85), "{name}");
        }
        assert_eq!(thumbnail(PHOTO).unwrap().format, "jpeg");
    }

    #[test]
    fn the_aspect_is_kept_and_nothing_is_enlarged() {
        let sized = |width, height| dimensions(&encoded(image::GrayImage::new(width, height), ImageFormat::Png));
        assert_eq!(sized(100, 400), (64, 256));
        assert_eq!(sized(256, 256), (256, 256));
        assert_eq!(sized(20, 10), (20, 10));
        assert_eq!(sized(1, 1), (1, 1));
        assert_eq!(sized(4000, 1), (256, 1));
    }

    #[test]
    fn deep_colours_become_8_bits() {
        let deep = image::ImageBuffer::<image::Rgb<u16>, _>::from_pixel(4, 4, image::Rgb([u16::MAX, 0, 0x8080]));
        let thumbnail = thumbnail(&encoded(deep, ImageFormat::Png)).unwrap();
        let png = image::load_from_memory(&thumbnail.png).unwrap();
        assert_eq!(png.color(), image::ColorType::Rgb8);
        assert_eq!(png.to_rgb8().get_pixel(0, 0).0, [255, 0, 128]);
    }

    #[test]
    fn a_photo_that_a_camera_took_sideways_is_turned() {
        // An EXIF block with one entry: orientation 6, "turn a quarter to the right".
        let exif: &[u8] = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let mut bytes = PHOTO[..2].to_vec();
        bytes.extend([0xff, 0xe1, 0, exif.len() as u8 + 2]);
        bytes.extend_from_slice(exif);
        bytes.extend_from_slice(&PHOTO[2..]);
        assert_eq!(dimensions(&bytes), (192, 256));
        assert_eq!(thumbnail(&bytes).unwrap().source_width, 640);
    }

    #[test]
    fn what_is_no_picture_is_a_dead_letter() {
        for bytes in [&b""[..], b"hello", b"%PDF-1.7", b"BM\0\0\0\0"] {
            assert_eq!(dead_letter(bytes), "the body is no picture: JPEG, PNG, GIF or WebP are expected");
        }
    }

    #[test]
    fn a_damaged_picture_is_a_dead_letter_that_says_so() {
        let png = encoded(image::RgbImage::new(64, 64), ImageFormat::Png);
        let reason = dead_letter(&png[..png.len() / 2]);
        assert!(reason.starts_with("the picture (png) can't be read: "), "{reason}");
        let reason = dead_letter(&PHOTO[..200]);
        assert!(reason.starts_with("the picture (jpeg) can't be read: "), "{reason}");
        // Whatever is cut off: an answer, no panic.
        for end in (0..PHOTO.len()).step_by(997) {
            let _ = thumbnail(&PHOTO[..end]);
        }
    }

    #[test]
    fn a_picture_that_claims_to_be_huge_is_a_dead_letter_before_it_is_unpacked() {
        // A valid header of 60,000 x 60,000 pixels: 10 GiB, in less than 100 bytes.
        let mut png = encoded(image::RgbImage::new(1, 1), ImageFormat::Png);
        png[16..20].copy_from_slice(&60_000u32.to_be_bytes());
        png[20..24].copy_from_slice(&60_000u32.to_be_bytes());
        let crc = crc32(&png[12..29]);
        png[29..33].copy_from_slice(&crc.to_be_bytes());
        let reason = dead_letter(&png);
        assert!(reason.starts_with("the picture (png) needs too much memory when it is unpacked: "), "{reason}");

        let mut gif = encoded(image::RgbaImage::new(1, 1), ImageFormat::Gif);
        gif[6..10].copy_from_slice(&[0xff; 4]);
        let reason = dead_letter(&gif);
        assert!(reason.starts_with("the picture (gif) needs too much memory when it is unpacked: "), "{reason}");
    }

    /// The checksum of a PNG chunk.
    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
        })
    }
}
