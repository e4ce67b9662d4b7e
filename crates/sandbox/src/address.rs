//! Guest addresses as types: a virtual one is never taken for a physical one, and arithmetic on
//! them is checked.

use std::fmt;

/// Bytes in a page.
pub const PAGE_SIZE: u64 = 4096;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(u64);

        impl $name {
            /// The address with this number.
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            /// The number of this address.
            pub const fn raw(self) -> u64 {
                self.0
            }

            /// This address plus `bytes`, or `None` past the end of the 64-bit space.
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(raw) => Some(Self(raw)),
                    None => None,
                }
            }

            /// The first byte of the page this address is in.
            pub const fn page_floor(self) -> Self {
                Self(self.0 & !(PAGE_SIZE - 1))
            }

            /// Distance from the start of the page.
            pub const fn page_offset(self) -> u64 {
                self.0 & (PAGE_SIZE - 1)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address! {
    /// An address as the guest's code uses it.
    GuestVirt
}

address! {
    /// An address in the VM's memory slot: what guest page tables point to.
    GuestPhys
}
