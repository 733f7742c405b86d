//! Rates and amounts, as people write them: `100M` is 100 Mbit/s, `5000fps` is 5,000 frames a second.

use sv3::rules::{Bucket, Unit};

/// The least burst unless another is given: some of the largest segments, or some frames.
const LEAST: (u64, u64) = (256 << 10, 32);

/// A rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// So many units a second.
    pub amount: u64,
    /// Octets or frames.
    pub unit: Unit,
}

impl Rate {
    /// Reads a rate. The error is for people.
    pub fn parse(text: &str) -> Result<Rate, String> {
        let wrong = || format!("{text:?} is no rate, such as 100M (bits a second) or 5000fps (frames a second)");
        let bits = || text.strip_suffix("bit/s").or_else(|| text.strip_suffix("bit")).unwrap_or(text);
        match text.strip_suffix("fps") {
            Some(frames) => Ok(Rate { amount: amount(frames.trim()).ok_or_else(wrong)?, unit: Unit::Frames }),
            None => {
                let amount = amount(bits().trim()).ok_or_else(wrong)? / 8;
                if amount == 0 { Err(wrong()) } else { Ok(Rate { amount, unit: Unit::Octets }) }
            }
        }
    }

    /// As people write it.
    pub fn words(self) -> String {
        match self.unit {
            Unit::Frames => format!("{}fps", short(self.amount)),
            Unit::Octets => short(self.amount.saturating_mul(8)),
        }
    }

    /// The bucket of this rate. Without a burst, 20 ms of the rate may pass at once.
    pub fn bucket(self, burst: Option<u64>) -> Bucket {
        let least = if self.unit == Unit::Octets { LEAST.0 } else { LEAST.1 };
        Bucket { rate: self.amount, burst: burst.unwrap_or((self.amount / 50).max(least)), unit: self.unit }
    }
}

/// Reads a number with `k`, `M`, `G` or `T` behind it.
pub fn amount(text: &str) -> Option<u64> {
    let scales = [('k', 1000), ('K', 1000), ('M', 1_000_000), ('G', 1_000_000_000), ('T', 1_000_000_000_000)];
    let scale = scales.into_iter().find_map(|(letter, scale)| Some((text.strip_suffix(letter)?, scale)));
    let (digits, scale) = scale.unwrap_or((text, 1));
    digits.trim().parse::<u64>().ok().filter(|_| digits.starts_with(|c: char| c.is_ascii_digit()))?.checked_mul(scale)
}

/// Writes a number so that [`amount`] reads it.
pub fn short(number: u64) -> String {
    let scales = [("T", 1_000_000_000_000), ("G", 1_000_000_000), ("M", 1_000_000), ("k", 1000)];
    let scale = scales.into_iter().find(|(_, scale)| number >= *scale && number.is_multiple_of(*scale));
    scale.map_or(number.to_string(), |(letter, scale)| format!("{}{letter}", number / scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_they_are_written() {
        for (text, amount, unit) in [
            ("100M", 12_500_000, Unit::Octets),
            ("1Gbit/s", 125_000_000, Unit::Octets),
            ("64k", 8_000, Unit::Octets),
            ("5000fps", 5_000, Unit::Frames),
            ("2Mfps", 2_000_000, Unit::Frames),
        ] {
            let rate = Rate::parse(text).unwrap();
            assert_eq!(rate, Rate { amount, unit }, "{text}");
            assert_eq!(Rate::parse(&rate.words()), Ok(rate), "{text}");
        }
        for wrong in ["", "M", "fast", "-1", "1", "1e9", "+5M", "99999999999999999999"] {
            assert!(Rate::parse(wrong).unwrap_err().contains("no rate"), "{wrong}");
        }
        assert_eq!(Rate::parse("1G").unwrap().bucket(None).burst, 2_500_000);
        assert_eq!(Rate::parse("100fps").unwrap().bucket(None).burst, 32);
    }
}
