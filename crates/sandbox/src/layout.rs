//! The guest's fixed addresses, from tinykvm_layout.h, as the types the sandbox works with.

use tinykvm_sys::abi;

macro_rules! addresses {
    ($($name:ident = $source:ident;)*) => {
        $(
            #[allow(clippy::unnecessary_cast, reason = "bindgen picks u32 or u64 by the value")]
            #[allow(clippy::cast_lossless, reason = "From is not const")]
            pub(crate) const $name: u64 = abi::$source as u64;
        )*
    };
}

addresses! {
    GDT = TINYKVM_GDT;
    TSS = TINYKVM_TSS;
    IDT = TINYKVM_IDT;
    KERNEL = TINYKVM_KERNEL;
    KERNEL_STACK = TINYKVM_KERNEL_STACK;
    KERNEL_STACK_TOP = TINYKVM_KERNEL_STACK_TOP;
    STUBS = TINYKVM_STUBS;
    FRAME = TINYKVM_FRAME;
    FRAME_RANDOM = TINYKVM_FRAME_RANDOM;
    FRAME_VCPU = TINYKVM_FRAME_VCPU;
    VDSO = TINYKVM_VDSO;
    VDSO_END = TINYKVM_VDSO_END;
    XSAVE = TINYKVM_XSAVE;
    USER_BEGIN = TINYKVM_USER_BEGIN;
    USER_END = TINYKVM_USER_END;
    PIE_BASE = TINYKVM_PIE_BASE;
}
