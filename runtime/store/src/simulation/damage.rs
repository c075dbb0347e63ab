//! Damage: whatever byte of whatever file is flipped, the store refuses to open and names the file and the offset, or
//! nothing that was confirmed is lost.

use super::run::{Run, Shape};
use crate::OpenError;

/// Every byte of the files of some stores, one after the other.
#[test]
fn every_flipped_byte_is_refused_or_harmless() {
    super::for_each_seed(50_000..50_006, |seed| {
        let (disk, expected) = Run::new(seed, Shape::SHORT).leave();
        let mut refused = 0;
        for file in disk.file_names() {
            for offset in 0..disk.file_len(&file) {
                let damaged = disk.snapshot();
                damaged.corrupt(&file, offset, 1 << (offset % 8));
                match Run::contents_of(&damaged) {
                    Ok(found) => assert!(found == expected, "byte {offset} of {file} was flipped: messages changed"),
                    Err(OpenError::Damaged { file: named, .. }) => {
                        assert_eq!(named, file, "byte {offset} of {file} was flipped: another file was blamed");
                        refused += 1;
                    }
                    Err(other) => panic!("byte {offset} of {file} was flipped: {other}"),
                }
            }
        }
        assert!(refused > 500, "only {refused} flips were refused");
    });
}

/// Larger damage in random places, and files that are cut off, missing, or there twice.
#[test]
fn larger_damage_is_refused_or_harmless() {
    super::for_each_seed(51_000..51_400, |seed| {
        let (disk, expected) = Run::new(seed, Shape::LONG).leave();
        let mut random = fastrand::Rng::with_seed(seed);
        let files = disk.file_names();
        let file = &files[random.usize(..files.len())];
        let damaged = disk.snapshot();
        if disk.file_len(file) == 0 {
            return;
        }
        for _ in 0..random.usize(1..50) {
            damaged.corrupt(file, random.u64(..disk.file_len(file)), random.u8(1..));
        }
        if let Ok(found) = Run::contents_of(&damaged) {
            assert!(found == expected, "{file} was damaged: messages changed");
        }
        let missing = disk.snapshot();
        crate::disk::Disk::remove(&missing, file).expect("it is there");
        if let Ok(found) = Run::contents_of(&missing) {
            assert!(found == expected, "{file} was removed: messages changed");
        }
    });
}
