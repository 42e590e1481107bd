//! An array map in our address space: what the program and we change without a system call.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::{self, NonNull};

use aya::maps::{Map, MapData, MapError};

/// Elements that both sides change at any time: only types made of atomics.
///
/// # Safety
///
/// The type is `repr(C)`, made of atomics only, has the map's value size, a multiple of 8, and an
/// alignment of at most 8; all zero bytes are a value.
pub(crate) unsafe trait Element {}

// SAFETY: so it is, and `abi`'s tests hold the size against the program's.
unsafe impl Element for crate::abi::Account {}
// SAFETY: as above.
unsafe impl Element for crate::abi::Hop {}

/// A mapped array of a program.
pub(crate) struct Mapped<T> {
    start: NonNull<T>,
    len: u32,
    bytes: usize,
    /// The map lives as long as we do.
    _map: MapData,
    _element: PhantomData<T>,
}

// SAFETY: the memory belongs to no thread, and `Element`s are made of atomics.
unsafe impl<T: Element> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T: Element> Sync for Mapped<T> {}

impl<T: Element> Mapped<T> {
    /// Maps an array that was made with `BPF_F_MMAPABLE`.
    pub(crate) fn new(map: Map) -> Result<Mapped<T>, MapError> {
        let Map::Array(map) = map else {
            return Err(MapError::InvalidMapType { map_type: 0 });
        };
        let info = map.info()?;
        let (len, size) = (info.max_entries(), info.value_size() as usize);
        if size != size_of::<T>() {
            return Err(MapError::InvalidValueSize { size, expected: size_of::<T>() });
        }
        let bytes = len as usize * size;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        let start = NonNull::new(start.cast()).filter(|_| start != libc::MAP_FAILED);
        let start = start.ok_or_else(|| MapError::IoError(io::Error::last_os_error()))?;
        Ok(Mapped { start, len, bytes, _map: map, _element: PhantomData })
    }

    /// How many elements there are.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// An element.
    ///
    /// # Panics
    ///
    /// If there is none of that index.
    pub(crate) fn get(&self, index: u32) -> &T {
        assert!(index < self.len, "element {index} of {}", self.len);
        // SAFETY: it lies within the mapping, which lives as long as `self`; it is aligned, as
        // the mapping begins with a page; the kernel filled it with zeros, and whoever changes it
        // does so atomically.
        unsafe { self.start.add(index as usize).as_ref() }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: this is the mapping made in `new`, and no reference into it outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
