// SPDX-License-Identifier: Apache-2.0
//! Sets of the host's processors, written as the kernel writes them in `/sys` and `/proc`: `0-3,8`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How many processors a set can hold: as many as `cpu_set_t` of the C library.
pub const CPUS_MAX: usize = 1024;
const WORD_BITS: usize = 64;

/// A set of the host's processors, by number.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CpuSet([u64; CPUS_MAX / WORD_BITS]);

impl CpuSet {
    /// The set without a processor.
    pub const EMPTY: Self = Self([0; CPUS_MAX / WORD_BITS]);

    /// Adds a processor; false if its number is too high for a set.
    pub fn add(&mut self, cpu: usize) -> bool {
        match self.0.get_mut(cpu / WORD_BITS) {
            Some(word) => {
                *word |= 1 << (cpu % WORD_BITS);
                true
            }
            None => false,
        }
    }

    /// Whether a processor is in it.
    pub fn has(&self, cpu: usize) -> bool {
        let word = self.0.get(cpu / WORD_BITS).copied().unwrap_or(0);
        word >> (cpu % WORD_BITS) & 1 == 1
    }

    /// Its processors, in order.
    pub fn cpus(&self) -> impl Iterator<Item = usize> {
        (0..CPUS_MAX).filter(|cpu| self.has(*cpu))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }

    /// What is in it and not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let mut left = *self;
        left.0.iter_mut().zip(other.0).for_each(|(a, b)| *a &= !b);
        left
    }
}

impl FromStr for CpuSet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "expected numbers of processors, such as 2 or 0-3,8".to_owned();
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| expected());
        let mut set = Self::EMPTY;
        if text.is_empty() {
            return Ok(set);
        }
        for part in text.split(',') {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(part)?, number(part)?),
            };
            if first > last {
                return Err(format!("{part} ends before it begins"));
            }
            if last >= CPUS_MAX {
                return Err(format!("processors beyond {} are not known", CPUS_MAX - 1));
            }
            for cpu in first..=last {
                set.add(cpu);
            }
        }
        Ok(set)
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.cpus().peekable();
        let mut comma = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while let Some(next) = cpus.next_if_eq(&(last + 1)) {
                last = next;
            }
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
            comma = ",";
        }
        Ok(())
    }
}

impl fmt::Debug for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CpuSet({self})")
    }
}

impl TryFrom<String> for CpuSet {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|reason| format!("{text:?}: {reason}"))
    }
}

impl From<CpuSet> for String {
    fn from(set: CpuSet) -> Self {
        set.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_is_read_as_the_kernel_writes_it() {
        for (text, tidied) in [
            ("0", "0"),
            ("0-3,8", "0-3,8"),
            ("8,1,0,2", "0-2,8"),
            ("1023,5-5", "5,1023"),
        ] {
            assert_eq!(text.parse::<CpuSet>().unwrap().to_string(), tidied);
        }
        let set: CpuSet = "1-2".parse().unwrap();
        assert!(set.has(1) && !set.has(0) && !set.has(5000));
        assert_eq!(set.without(&"2-9".parse().unwrap()).to_string(), "1");
        assert_eq!(CpuSet::EMPTY.to_string(), "");
    }

    #[test]
    fn what_is_no_set_is_refused() {
        assert_eq!("".parse(), Ok(CpuSet::EMPTY));
        for text in ["a", "3-1", "-1", "1-", "1024", "0-9999999999", "1,,2"] {
            assert!(text.parse::<CpuSet>().is_err(), "{text}");
        }
    }
}
