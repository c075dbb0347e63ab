//! Why a store can't be opened.

use crate::disk::DiskError;

/// Why a store can't be opened. Nothing on disk was changed but what an interrupted start left unfinished.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process works on the folder.
    #[error("the data folder is in use by another process, which holds {lock_file}: stop it, or set another data_dir")]
    Locked {
        /// The file that the other process holds.
        lock_file: String,
    },
    /// Something on disk is not what was written.
    #[error("{file} is damaged at offset {offset}: {why}")]
    Damaged {
        /// The file's name in the data folder.
        file: String,
        /// Where, in bytes from its start.
        offset: u64,
        /// What is wrong.
        why: String,
    },
    /// A file was written by a version of Linecook that has another format.
    #[error(
        "{file} has format {format}, and this version of Linecook reads format {known}: run the version that wrote it"
    )]
    OtherFormat {
        /// The file's name in the data folder.
        file: String,
        /// Its format.
        format: u32,
        /// The format that is read.
        known: u32,
    },
    /// A file was written by a version of Linecook that knows more.
    #[error(
        "{file} uses features ({features:#x}) that this version of Linecook does not know: run the version that wrote it"
    )]
    UnknownFeatures {
        /// The file's name in the data folder.
        file: String,
        /// Their bits.
        features: u32,
    },
    /// Files that must be there are not.
    #[error("the data folder is incomplete: {0}")]
    Incomplete(String),
    /// The log is full, and there is no room for what must be in it before anything can begin.
    #[error(
        "there is no room on the disk to write down the {attempts} attempts that were running when the store was last \
         open: make some, and start again"
    )]
    NoRoom {
        /// How many.
        attempts: usize,
    },
    /// The log could not be written to.
    #[error("{0}")]
    Stopped(std::sync::Arc<str>),
    /// The disk said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl OpenError {
    pub(crate) fn damaged(file: impl Into<String>, offset: u64, why: impl Into<String>) -> OpenError {
        OpenError::Damaged { file: file.into(), offset, why: why.into() }
    }
}
