//! Indices of a ring's descriptors.

/// A ring of so many descriptors, at least one. Indices are below that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Circle(pub u16);

impl Circle {
    /// The index `by` behind `at`. `by` is at most the ring's length.
    #[inline]
    pub fn behind(self, at: u16, by: u16) -> u16 {
        let next = at.wrapping_add(by);
        if next >= self.0 { next.wrapping_sub(self.0) } else { next }
    }

    /// The index before `at`.
    #[inline]
    pub fn before(self, at: u16) -> u16 {
        if at == 0 { self.0.wrapping_sub(1) } else { at - 1 }
    }

    /// How far `to` is behind `from`.
    #[inline]
    pub fn distance(self, from: u16, to: u16) -> u16 {
        if to >= from { to - from } else { to.wrapping_add(self.0).wrapping_sub(from) }
    }

    /// A number that a card or another worker wrote, if it is an index.
    #[inline]
    pub fn index(self, number: u64) -> Option<u16> {
        u16::try_from(number).ok().filter(|index| *index < self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_go_round() {
        let ring = Circle(128);
        assert_eq!((ring.behind(127, 1), ring.behind(100, 128), ring.behind(3, 4)), (0, 100, 7));
        assert_eq!((ring.before(0), ring.before(5)), (127, 4));
        assert_eq!((ring.distance(120, 5), ring.distance(5, 120), ring.distance(9, 9)), (13, 115, 0));
        assert_eq!((ring.index(127), ring.index(128), ring.index(1 << 32)), (Some(127), None, None));
    }
}
