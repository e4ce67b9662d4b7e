//! Stand-in until the real module lands. In a merge conflict take the other side, whole.
#![allow(clippy::all,unreachable_pub,missing_debug_implementations)]
use crate::Protection;
pub struct ParseOptions{pub executable_heap:bool}
#[derive(Debug,thiserror::Error)] #[error("x")] pub struct ElfError;
pub struct Segment<'a>{pub address:u64,pub data:&'a [u8],pub mem_len:u64,pub prot:Protection}
pub struct Elf<'a>{pub entry:u64,pub phdr:u64,pub phnum:u16,pub phent:u16,pub image_end:u64,pub segments:Vec<Segment<'a>>}
pub fn parse<'a>(b:&'a [u8],_:&ParseOptions)->Result<Elf<'a>,ElfError>{
 let q=|o:usize|u64::from_le_bytes(b[o..o+8].try_into().unwrap()); let w=|o:usize|u32::from_le_bytes(b[o..o+4].try_into().unwrap()); let h=|o:usize|u16::from_le_bytes(b[o..o+2].try_into().unwrap());
 let ph=q(32) as usize; let n=h(56); let mut e=Elf{entry:q(24),phdr:0,phnum:n,phent:56,image_end:0,segments:vec![]};
 for i in 0..n as usize{let p=ph+56*i; if w(p)==1{ let f=w(p+4); let off=q(p+8) as usize; let va=q(p+16); let fs=q(p+32) as usize; let ms=q(p+40); if off==0{e.phdr=va+ph as u64;} e.image_end=e.image_end.max(va+ms);
 e.segments.push(Segment{address:va,data:&b[off..off+fs],mem_len:ms,prot:Protection{read:true,write:f&2!=0,execute:f&1!=0}});}}
 Ok(e)}
