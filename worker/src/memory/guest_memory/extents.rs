//! Look-ups in a region, compared with plain arithmetic that cannot overflow, near all borders.

use super::*;

const TOP: u64 = u64::MAX;

fn around(at: u64) -> [u64; 5] {
    [-2i64, -1, 0, 1, 2].map(|by| at.wrapping_add_signed(by))
}

#[test]
fn a_piece_is_what_lies_in_the_region() {
    // Nothing is read. The test only compares addresses.
    let host = 0x5000_0000_0000usize as *mut u8;
    let mut looks = 0u32;
    for start in [0, 1, 0x1000, 1 << 32, 1 << 63, TOP - 0x10_000, TOP - 1] {
        // The supervisor admits regions whose end is a u64.
        for size in
            [1, 2, 0x1000, 1 << 20, 1 << 43, TOP >> 1].into_iter().filter(|size| start.checked_add(*size).is_some())
        {
            let extent = RegionView { guest_addr: start, size, host };
            let end = u128::from(start) + u128::from(size);
            let addrs = [0, start, end as u64, start ^ (1 << 63), TOP].into_iter().flat_map(around);
            for addr in addrs {
                let lies = (u128::from(start)..end).contains(&u128::from(addr));
                let left = if lies { (end - u128::from(addr)) as u64 } else { 0 };
                for len in [1, 0x1000, TOP, u64::from(u32::MAX)].into_iter().chain(around(left)).filter(|len| *len > 0)
                {
                    looks += 1;
                    let found =
                        extent.piece(addr, len).map(|slice| (slice.ptr() as usize - host as usize, slice.len()));
                    let wanted = lies.then(|| ((addr - start) as usize, len.min(left) as usize));
                    assert_eq!(found, wanted, "{len:#x} octets at {addr:#x} of {size:#x} at {start:#x}");

                    let Ok(len) = u32::try_from(len) else { continue };
                    let found = RegionCache(extent, PhantomData).slice(addr, len);
                    let found = found.map(|slice| (slice.ptr() as usize - host as usize, slice.len()));
                    let whole = wanted.filter(|(_, found)| *found == len as usize);
                    assert_eq!(found, whole, "{len:#x} octets at {addr:#x} of {size:#x} at {start:#x}, wholly");
                }
            }
        }
    }
    assert!(looks > 5000, "{looks}");
}
