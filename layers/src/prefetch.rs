//! [`prefetch`]: brings a cache line nearer before it is needed.
#![allow(unsafe_code)]

/// Prefetches a cache line. A hint: the program sees no memory access, so any address will do.
#[inline]
pub(crate) fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64, and a prefetch of any address, mapped or not, has no effect
    // but on caches.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
