//! A BPF array whose values this process shares with the kernel, word by word and without system calls.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// The values of an array that was created with `BPF_F_MMAPABLE`, as words. The programs read the words whole, so each
/// is either old or new to them, and never a mixture.
#[derive(Debug)]
pub(super) struct SharedWords {
    address: NonNull<AtomicU64>,
    words: usize,
}

impl SharedWords {
    /// Maps the first `words` words of the array's values.
    pub(super) fn map(array: impl AsFd, words: usize) -> io::Result<Self> {
        let length = NonZeroUsize::new(words * size_of::<AtomicU64>())
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: the kernel chooses the place, so no memory in use is replaced.
        let address = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, array, 0) }?;
        Ok(Self { address: address.cast(), words })
    }

    /// The words.
    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is this long, page-aligned, and lives as long as `self`; all accesses, the kernel's too,
        // are to whole words, which atomics allow to be shared.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr(), self.words) }
    }
}

// SAFETY: the mapping belongs to the process, not to a thread, and is accessed through atomics only.
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `map`, and no reference into it outlives `self`.
        let unmapped = unsafe { munmap(self.address.cast(), self.words * size_of::<AtomicU64>()) };
        debug_assert!(unmapped.is_ok(), "unmapping what was mapped failed: {unmapped:?}");
    }
}
