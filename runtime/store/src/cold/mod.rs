//! The cold part of the store: messages that outlived the log file that they came in.
//!
//! When a file of the log is full, what still lives in it is copied to *segments*, one for each queue, and the file goes
//! back to the ring. A segment is written once and never changed. Which of its messages still live is known by a bitmap in
//! memory; checkpoints put that on disk, so that the log before them is not needed any more. A message that waits in a
//! segment costs two bits and its share of a sparse index: what else there is to know is read when it is claimed.
//!
//! | module | what |
//! | --- | --- |
//! | [`segment`] | the file: writing, opening, reading a chunk |
//! | [`appender`] | how such a file is written |
//! | [`shelf`] | the segments of one queue, and which of their messages live |
//! | [`chunks`] | pieces of segments that were read lately or ahead |
//! | [`ahead`] | reads what will be claimed next |
//! | [`frames`] | reads a file of the log, frame by frame |
//! | [`copy`] | copies what lives in a file of the log, or in old segments, to new ones |
//! | [`checkpoint`] | the two files that say what the log before a point came to |
//! | [`keeper`] | does these things beside the committer, one at a time |

pub(crate) mod ahead;
pub(crate) mod appender;
pub(crate) mod bitmap;
pub(crate) mod checkpoint;
pub(crate) mod chunks;
pub(crate) mod copy;
mod frames;
pub(crate) mod keeper;
pub(crate) mod places;
pub(crate) mod segment;
pub(crate) mod shelf;
