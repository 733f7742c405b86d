//! Lists of processors, in the form of the kernel's files and of `taskset -c`: `0,2-5`.

use std::fmt;
use std::str::FromStr;

/// Above the highest number of a processor: the size of the C library's `cpu_set_t`, in bits.
const LIMIT: usize = 1024;

/// At least one processor, each at most once, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpus {
    numbers: Vec<usize>,
}

impl Cpus {
    /// The numbers of the processors.
    pub fn numbers(&self) -> &[usize] {
        &self.numbers
    }
}

impl FromStr for Cpus {
    type Err = String;

    fn from_str(text: &str) -> Result<Cpus, String> {
        let mut numbers = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| text.parse().ok().filter(|number| *number < LIMIT);
            let (Some(first), Some(last)) = (number(first), number(last)) else {
                return Err(format!("{part:?} is not a processor or a range of them below {LIMIT}; write `0,2-5`"));
            };
            if first > last {
                return Err(format!("the range {part} is empty"));
            }
            if let Some(again) = (first..=last).find(|number| numbers.contains(number)) {
                return Err(format!("processor {again} is named twice"));
            }
            numbers.extend(first..=last);
        }
        Ok(Cpus { numbers })
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.numbers.as_slice();
        let mut comma = "";
        while let Some(first) = rest.first() {
            let run = (*first..).zip(rest).take_while(|(wanted, number)| wanted == *number).count();
            match run {
                1 => write!(f, "{comma}{first}")?,
                _ => write!(f, "{comma}{first}-{}", first + run - 1)?,
            }
            rest = rest.get(run..).unwrap_or(&[]);
            comma = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_shown() {
        for (text, numbers, shown) in
            [("0", vec![0], "0"), ("3,1-2,7", vec![3, 1, 2, 7], "3,1-2,7"), ("4,5,6", vec![4, 5, 6], "4-6")]
        {
            let cpus: Cpus = text.parse().unwrap();
            assert_eq!((cpus.numbers(), cpus.to_string().as_str()), (&numbers[..], shown));
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for wrong in ["", ",", "a", "1-", "-1", "3-1", "0,0", "0-3,2", "1024", "1 2", "99999999999999999999"] {
            assert!(wrong.parse::<Cpus>().is_err(), "{wrong}");
        }
    }
}
