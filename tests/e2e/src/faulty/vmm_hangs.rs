// SPDX-License-Identifier: Apache-2.0
//! `vmm-that-hangs`: a program in the place of a vmm that reads nothing and says nothing.

fn main() {
    loop {
        std::thread::park();
    }
}
