// SPDX-License-Identifier: Apache-2.0
//! The two fields of a vCPU's kvm_run page that kvm-ioctls does not expose: the exit request, which
//! other threads write, and the width of a port access.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;

/// A vCPU's kvm_run page.
#[derive(Debug, Clone, Copy)]
pub(super) struct RunPage(NonNull<kvm_run>);

#[allow(unsafe_code)]
// SAFETY: the page is never unmapped (see `of`); other threads only touch `immediate_exit`, and that
// atomically.
unsafe impl Send for RunPage {}

impl RunPage {
    /// The page of a vCPU that is never dropped, so that its mapping lives as long as the process.
    pub(super) fn of(vcpu: &'static Mutex<VcpuFd>) -> Self {
        let mut vcpu = vcpu.lock().unwrap_or_else(PoisonError::into_inner);
        Self(NonNull::from(vcpu.get_kvm_run()))
    }

    #[allow(unsafe_code)]
    fn immediate_exit(&self) -> &AtomicU8 {
        // SAFETY: `self.0` points to the kvm_run mapping (see `of`), of which this is a field.
        let field = unsafe { &raw mut (*self.0.as_ptr()).immediate_exit };
        // SAFETY: a byte is always aligned, it is valid as long as the mapping, and in this process
        // it is accessed only here; the kernel reads it once at each KVM_RUN.
        unsafe { AtomicU8::from_ptr(field) }
    }

    /// Any thread: makes the next KVM_RUN return immediately.
    pub(super) fn request_exit(&self) {
        self.immediate_exit().store(1, Ordering::SeqCst);
    }

    /// vCPU thread: clears the request.
    pub(super) fn clear_exit_request(&self) {
        self.immediate_exit().store(0, Ordering::SeqCst);
    }

    /// vCPU thread, after an exit for port I/O: the width of one access in bytes. (A string
    /// instruction makes several accesses.)
    #[allow(unsafe_code)]
    pub(super) fn port_width(&self) -> usize {
        // SAFETY: `self.0` points to the kvm_run mapping; this is a pointer to a field of it.
        let io = unsafe { &raw const (*self.0.as_ptr()).__bindgen_anon_1.io };
        // SAFETY: the pointer is valid (above), and the kernel writes the page only during KVM_RUN,
        // which this thread is not in. All bit patterns are valid.
        let io = unsafe { io.read() };
        usize::from(io.size.max(1))
    }
}
