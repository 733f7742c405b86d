//! Lists of slices of guest memory: the result of walking chains. Their room comes from an arena ([`Arena`]), which
//! still holds the slices of earlier bursts. So a list never gives out anything beyond its own length.
#![allow(unsafe_code)] // named in the design: guest memory

use super::slice::GuestSlice;

/// A list of slices in an arena.
pub struct SliceList<'a, 'm> {
    room: &'a mut [GuestSlice<'m>],
    len: usize,
    /// Descriptors that were read to fill it, used or not.
    pub walked: u64,
}

impl<'a, 'm> SliceList<'a, 'm> {
    /// An empty list with this room.
    #[inline]
    pub(super) fn over(room: &'a mut [GuestSlice<'m>]) -> SliceList<'a, 'm> {
        SliceList { room, len: 0, walked: 0 }
    }

    /// Adds a slice. False: there is no room.
    #[inline]
    pub fn push(&mut self, slice: GuestSlice<'m>) -> bool {
        match self.room.get_mut(self.len) {
            Some(place) => {
                *place = slice;
                self.len += 1;
                true
            }
            None => false,
        }
    }

    /// The end of the list, to add many slices.
    #[inline]
    pub fn tail(&mut self) -> Tail<'_, 'm> {
        let SliceList { room, len, .. } = self;
        Tail { places: room.get_mut(*len..).unwrap_or(&mut []).iter_mut(), len, count: 0 }
    }

    /// The room behind the list. What is written there counts when [`SliceList::grow`] says so.
    #[inline]
    pub fn room(&mut self) -> &mut [GuestSlice<'m>] {
        self.room.get_mut(self.len..).unwrap_or(&mut [])
    }

    /// The next `count` places of [`SliceList::room`] were written.
    #[inline]
    pub fn grow(&mut self, count: usize) {
        self.len = self.room.len().min(self.len + count);
    }

    /// The slice at an index.
    #[inline]
    pub fn get(&self, at: usize) -> Option<&GuestSlice<'m>> {
        self.room.get(..self.len)?.get(at)
    }

    /// Number of slices.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Removes all slices from index `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// How many more slices fit.
    pub fn spare(&self) -> usize {
        self.room.len() - self.len
    }

    /// The slices from `from` to the end.
    #[inline]
    pub fn from(&self, from: usize) -> &[GuestSlice<'m>] {
        self.room.get(from..self.len).unwrap_or(&[])
    }

    /// All slices.
    #[inline]
    pub fn all(&self) -> &[GuestSlice<'m>] {
        self.from(0)
    }
}

/// The end of a list. Added slices count when this is dropped.
pub struct Tail<'t, 'm> {
    places: std::slice::IterMut<'t, GuestSlice<'m>>,
    len: &'t mut usize,
    count: usize,
}

impl<'m> Tail<'_, 'm> {
    /// Adds a slice. False: there is no room.
    #[inline]
    pub fn push(&mut self, slice: GuestSlice<'m>) -> bool {
        match self.places.next() {
            Some(place) => {
                *place = slice;
                self.count += 1;
                true
            }
            None => false,
        }
    }
}

impl Drop for Tail<'_, '_> {
    #[inline]
    fn drop(&mut self) {
        *self.len += self.count;
    }
}

/// Room for the slices of a burst. Made once.
pub struct Arena(Box<[GuestSlice<'static>]>);

impl Arena {
    /// Room for `slices` slices.
    pub fn new(slices: usize) -> Arena {
        Arena(vec![GuestSlice::EMPTY; slices].into_boxed_slice())
    }

    /// An empty list in the arena's room, for slices of any memory.
    #[inline]
    pub fn list<'a, 'm>(&'a mut self) -> SliceList<'a, 'm> {
        // SAFETY: the lifetime is only a marker. Slices of `'m` are read only through the list, up to the list's own
        // length, and no `'static` slices are given out.
        let room =
            unsafe { std::mem::transmute::<&'a mut [GuestSlice<'static>], &'a mut [GuestSlice<'m>]>(&mut *self.0) };
        SliceList::over(room)
    }
}
