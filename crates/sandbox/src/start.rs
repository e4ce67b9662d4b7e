//! Stand-in until the real module lands. In a merge conflict take the other side, whole.
#![allow(clippy::all,unreachable_pub,missing_debug_implementations)]
use crate::*;
pub struct Auxv{pub phdr:u64,pub phent:u16,pub phnum:u16,pub entry:u64,pub base:u64,pub hwcap:u64,pub vdso:Option<u64>}
#[derive(Debug,thiserror::Error)] #[error("x")] pub struct StartError;
pub fn write_stack(m:&mut Memory,top:GuestVirt,_s:u64,_a:&[&[u8]],_e:&[&[u8]],_x:&Auxv)->Result<GuestVirt,StartError>{ let _=m.write(GuestVirt::new(top.raw()-64),&[0;64]); Ok(GuestVirt::new(top.raw()-64)) }
