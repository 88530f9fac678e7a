// SPDX-License-Identifier: Apache-2.0
//! Inputs altered without a fuzzer's knowledge of what they reach: what a plain `cargo test` can do
//! on any toolchain, the same in every run.

/// Pseudo-random numbers (xorshift64*).
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// A sequence of its own for each seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// The next number below `bound`, which is not zero.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.number() >> 33).unwrap_or(0) % bound
    }

    fn byte(&mut self) -> u8 {
        self.number().to_be_bytes()[0]
    }
}

/// Another input, made of two.
pub fn mutate(random: &mut Random, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut output = input.to_vec();
    for _ in 0..1 + random.below(4) {
        let at = random.below(output.len() + 1);
        match random.below(6) {
            0 => output.insert(at, random.byte()),
            1 => output.truncate(at.max(1)),
            2 => {
                let from = random.below(other.len() + 1);
                output.splice(at.., other[from..].iter().copied());
            }
            3 => output.extend((0..16).map(|_| random.byte())),
            4 => {
                if let Some(byte) = output.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
            _ => {
                if let Some(byte) = output.get_mut(at) {
                    *byte = *[0, 1, 0x7f, 0x80, 0xff].get(random.below(5)).unwrap_or(&0);
                }
            }
        }
    }
    output.truncate(4096);
    output
}
