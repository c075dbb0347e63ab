//! A picture in, a PNG thumbnail out.
//!
//! The body is a JPEG, PNG, GIF or WebP picture. Its thumbnail is written to `/thumbnails/<message id>.png`, and a
//! message to `thumbnails-done` says so. What is no such picture, or would need too much memory, is dead-lettered.
//!
//! A message that is handled twice leaves the same file: it is named after the message's id.

mod picture;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use linecook_sdk::{Message, Outcome, consumer, queues};
use serde::Serialize;

/// The folder that `queue.toml` grants.
const FOLDER: &str = "/thumbnails";

/// What `thumbnails-done` is told.
#[derive(Serialize)]
struct Done<'a> {
    /// The id of the message with the picture.
    id: &'a str,
    /// The thumbnail's name in the granted folder.
    file: &'a str,
    width: u32,
    height: u32,
    source_width: u32,
    source_height: u32,
    format: &'a str,
}

#[consumer]
fn thumbnail(message: Message) -> Outcome {
    thumbnail_into(message, Path::new(FOLDER))
}

fn thumbnail_into(message: Message, folder: &Path) -> Outcome {
    let thumbnail = picture::thumbnail(&message.body)?;
    let file = format!("{}.png", message.id);
    write_whole(folder, &file, &thumbnail.png)?;
    let done = Done {
        id: &message.id,
        file: &file,
        width: thumbnail.width,
        height: thumbnail.height,
        source_width: thumbnail.source_width,
        source_height: thumbnail.source_height,
        format: thumbnail.format,
    };
    queues::send("thumbnails-done", &done)?;
    Ok(())
}

/// Writes a file that is there whole or not at all, and stays there: the acknowledgement follows.
fn write_whole(folder: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let path = folder.join(name);
    let unfinished = folder.join(format!(".{name}.tmp"));
    let write = || {
        let mut file = File::create(&unfinished)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&unfinished, &path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|error: io::Error| io::Error::new(error.kind(), format!("writing {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{DynamicImage, ImageFormat};
    use linecook_sdk::{Failure, testing};
    use serde_json::json;

    const PHOTO: &[u8] = include_bytes!("../testdata/photo.jpg");

    #[test]
    fn a_photo_becomes_a_png_and_a_message() {
        let folder = tempfile::tempdir().unwrap();
        let message = testing::message(PHOTO).id("id-1");
        let run = testing::granting(["thumbnails-done"]).run(|m| thumbnail_into(m, folder.path()), message);

        assert_eq!(run.outcome, Ok(()));
        assert_eq!(run.sends.len(), 1);
        assert_eq!(
            run.sends[0].json::<serde_json::Value>(),
            json!({
                "id": "id-1", "file": "id-1.png", "width": 256, "height": 192,
                "source_width": 640, "source_height": 480, "format": "jpeg",
            })
        );
        let png = fs::read(folder.path().join("id-1.png")).unwrap();
        assert_eq!(image::guess_format(&png).unwrap(), ImageFormat::Png);
        let thumbnail = image::load_from_memory(&png).unwrap();
        assert_eq!((thumbnail.width(), thumbnail.height()), (256, 192));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the temporary file must be gone");
        assert_close(&thumbnail, &image::load_from_memory(PHOTO).unwrap());
    }

    /// The middle of the thumbnail has about the colour of the middle of the picture.
    fn assert_close(thumbnail: &DynamicImage, picture: &DynamicImage) {
        let middle = |image: &DynamicImage| image.to_rgb8().get_pixel(image.width() / 2, image.height() / 2).0;
        let (a, b) = (middle(thumbnail), middle(picture));
        assert!(a.iter().zip(b).all(|(a, b)| a.abs_diff(b) < 24), "{a:?} is not like {b:?}");
    }

    #[test]
    fn handling_a_message_again_leaves_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let handle = || testing::run(|m| thumbnail_into(m, folder.path()), testing::message(PHOTO).id("a"));
        let read = || fs::read(folder.path().join("a.png")).unwrap();
        handle().outcome.unwrap();
        let first = read();
        handle().outcome.unwrap();
        assert_eq!(read(), first);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_picture_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let run = testing::run(|m| thumbnail_into(m, folder.path()), testing::message("hello"));
        assert!(matches!(run.outcome, Err(Failure::DeadLetter { .. })), "{run:?}");
        assert!(run.sends.is_empty() && run.dropped.is_empty());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_a_retry_that_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let absent = folder.path().join("absent");
        let run = testing::run(|m| thumbnail_into(m, &absent), testing::message(PHOTO).id("a"));
        let Err(Failure::Retry { reason, .. }) = run.outcome else { panic!("must be a retry: {run:?}") };
        assert!(reason.contains("absent/a.png: No such file"), "{reason}");
    }
}
