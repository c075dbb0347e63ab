//! The allocator of whatever links this library, so that tests and benchmarks measure what the binary does.
//!
//! What belongs to a message is small, is made on one thread and freed on another: mimalloc does that without a lock. Tables
//! and frames are large: the system's allocator grows them without a copy (`mremap`) and gives them back at once, where
//! mimalloc has the old and the new one for a time, and both in sizes of its own.
#![allow(unsafe_code, reason = "an allocator is")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;

use libmimalloc_sys as mimalloc;

#[global_allocator]
static ALLOCATOR: BySize = BySize;

/// From here on the system allocates. With 16 KiB, the tables of a million delayed messages take 7 MiB more.
const LARGE_BYTES: usize = 2 << 10;

/// What mimalloc aligns without being asked to, if it is not larger than what is allocated. Not asking is faster.
const ALIGNED_BYTES: usize = 16;

/// One allocator for small things, one for large ones.
struct BySize;

fn is_large(bytes: usize) -> bool {
    bytes >= LARGE_BYTES
}

fn is_aligned_anyhow(bytes: usize, align: usize) -> bool {
    align <= ALIGNED_BYTES && align <= bytes
}

// SAFETY: each block goes back to the allocator that it came from, which its layout names; both keep what is asked of them.
unsafe impl GlobalAlloc for BySize {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (bytes, align) = (layout.size(), layout.align());
        // SAFETY: the caller's promise is passed on; the size is not zero, nor too large for a layout.
        unsafe {
            match is_large(bytes) {
                true => System.alloc(layout),
                false if is_aligned_anyhow(bytes, align) => mimalloc::mi_malloc(bytes).cast(),
                false => mimalloc::mi_malloc_aligned(bytes, align).cast(),
            }
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let (bytes, align) = (layout.size(), layout.align());
        // SAFETY: as above.
        unsafe {
            match is_large(bytes) {
                true => System.alloc_zeroed(layout),
                false if is_aligned_anyhow(bytes, align) => mimalloc::mi_zalloc(bytes).cast(),
                false => mimalloc::mi_zalloc_aligned(bytes, align).cast(),
            }
        }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: a block of this layout is of this allocator.
        unsafe { if is_large(layout.size()) { System.dealloc(block, layout) } else { mimalloc::mi_free(block.cast()) } }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        let align = layout.align();
        // SAFETY: a block of this layout is of this allocator, and so will be the new one. The caller promises that the new
        // size makes a layout. What is copied is in both blocks, which are different ones, and the old one goes only if
        // there is a new one.
        unsafe {
            match (is_large(layout.size()), is_large(bytes)) {
                (true, true) => System.realloc(block, layout, bytes),
                (false, false) if is_aligned_anyhow(bytes, align) => mimalloc::mi_realloc(block.cast(), bytes).cast(),
                (false, false) => mimalloc::mi_realloc_aligned(block.cast(), bytes, align).cast(),
                _ => {
                    let moved = self.alloc(Layout::from_size_align_unchecked(bytes, align));
                    if !moved.is_null() {
                        ptr::copy_nonoverlapping(block, moved, layout.size().min(bytes));
                        self.dealloc(block, layout);
                    }
                    moved
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_or_shrinks_past_the_bound_keeps_what_it_holds() {
        let sizes = [1, 8, 24, 40, LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES * 300, LARGE_BYTES, LARGE_BYTES - 1, 3];
        for align in [1, 8, 16, 64, 4096] {
            let mut layout = Layout::from_size_align(1, align).unwrap();
            // SAFETY: the layout is not empty.
            let mut block = unsafe { BySize.alloc_zeroed(layout) };
            let mut held = 0;
            for bytes in sizes {
                // SAFETY: the block is of this layout, and the new size is neither zero nor too large.
                block = unsafe { BySize.realloc(block, layout, bytes) };
                layout = Layout::from_size_align(bytes, align).unwrap();
                assert_eq!(block.addr() % align, 0);
                // SAFETY: so many bytes were just allocated, and nobody else has them.
                let content =
                    unsafe { std::slice::from_raw_parts_mut(block.cast::<std::mem::MaybeUninit<u8>>(), bytes) };
                let kept = held.min(bytes);
                // SAFETY: they were written before the block was moved.
                assert!((0..kept).all(|at| unsafe { content[at].assume_init() } == at as u8));
                for (at, byte) in content.iter_mut().enumerate() {
                    byte.write(at as u8);
                }
                held = bytes;
            }
            // SAFETY: the block is of this layout.
            unsafe { BySize.dealloc(block, layout) };
        }
    }
}
