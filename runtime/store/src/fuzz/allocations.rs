//! Counts what each thread allocates, so that a decoder that trusts a length is found before it takes all memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    static TOTAL: Cell<u64> = const { Cell::new(0) };
}

/// Bytes that this thread has allocated so far, whether they were freed or not.
pub(super) fn total() -> u64 {
    TOTAL.get()
}

fn count(bytes: usize) {
    // A thread that is ending has nothing to count any more.
    let _ = TOTAL.try_with(|total| total.set(total.get() + bytes as u64));
}

#[expect(unsafe_code, reason = "the trait is unsafe; everything is handed on to the system's allocator")]
// SAFETY: as the system's allocator, which does everything but the counting; that allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the trait's promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the trait's promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size.saturating_sub(layout.size()));
        // SAFETY: the caller keeps the trait's promises.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the trait's promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}
