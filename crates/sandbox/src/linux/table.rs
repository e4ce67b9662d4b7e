//! Every system call there is, by number. `docs/system-calls.md` lists the same names.

use super::{
    Answer, Call, Stop, descriptors, directories, edits, epoll, files, futex, identity, limits,
    memory, open, pipes, poll, random, refuse, signals, sockets, status, time,
};

/// A system call: its number, its name, and what it does.
#[derive(Debug)]
pub(super) struct SystemCall {
    pub(super) number: i64,
    pub(super) name: &'static str,
    pub(super) function: fn(&mut Call<'_>) -> Answer,
}

macro_rules! calls {
    ($($number:ident $function:path;)*) => {
        &[$(SystemCall {
            number: libc::$number,
            name: stringify!($number),
            function: $function,
        }),*]
    };
}

/// In the order of their numbers.
pub(super) static CALLS: &[SystemCall] = calls! {
    SYS_read files::read;
    SYS_write files::write;
    SYS_open open::open;
    SYS_close descriptors::close;
    SYS_stat status::stat;
    SYS_fstat status::fstat;
    SYS_lstat status::lstat;
    SYS_poll poll::poll;
    SYS_lseek files::lseek;
    SYS_mmap memory::mmap;
    SYS_mprotect memory::mprotect;
    SYS_munmap memory::munmap;
    SYS_brk memory::brk;
    SYS_rt_sigaction signals::rt_sigaction;
    SYS_rt_sigprocmask signals::rt_sigprocmask;
    SYS_ioctl descriptors::ioctl;
    SYS_pread64 files::pread64;
    SYS_pwrite64 files::pwrite64;
    SYS_readv files::readv;
    SYS_writev files::writev;
    SYS_access status::access;
    SYS_pipe pipes::pipe;
    SYS_select poll::select;
    SYS_sched_yield identity::zero;
    SYS_mremap memory::mremap;
    SYS_msync memory::nothing_to_do;
    SYS_mincore unsupported;
    SYS_madvise memory::madvise;
    SYS_dup descriptors::dup;
    SYS_dup2 descriptors::dup2;
    SYS_pause signals::pause;
    SYS_nanosleep time::nanosleep;
    SYS_getpid identity::pid;
    SYS_socket sockets::socket;
    SYS_connect sockets::on_descriptor;
    SYS_accept sockets::on_descriptor;
    SYS_sendto sockets::on_descriptor;
    SYS_recvfrom sockets::on_descriptor;
    SYS_sendmsg sockets::on_descriptor;
    SYS_recvmsg sockets::on_descriptor;
    SYS_shutdown sockets::on_descriptor;
    SYS_bind sockets::on_descriptor;
    SYS_listen sockets::on_descriptor;
    SYS_getsockname sockets::on_descriptor;
    SYS_getpeername sockets::on_descriptor;
    SYS_socketpair sockets::socket;
    SYS_setsockopt sockets::on_descriptor;
    SYS_getsockopt sockets::on_descriptor;
    SYS_clone unsupported;
    SYS_fork unsupported;
    SYS_vfork unsupported;
    SYS_execve identity::not_permitted;
    SYS_exit identity::exit;
    SYS_wait4 identity::no_children;
    SYS_kill signals::kill;
    SYS_uname identity::uname;
    SYS_fcntl descriptors::fcntl;
    SYS_flock descriptors::flock;
    SYS_fsync edits::fsync;
    SYS_fdatasync edits::fsync;
    SYS_truncate edits::truncate;
    SYS_ftruncate edits::ftruncate;
    SYS_getcwd directories::getcwd;
    SYS_chdir directories::chdir;
    SYS_fchdir directories::fchdir;
    SYS_rename edits::rename;
    SYS_mkdir edits::mkdir;
    SYS_rmdir edits::rmdir;
    SYS_creat open::creat;
    SYS_link edits::forbidden;
    SYS_unlink edits::unlink;
    SYS_symlink edits::forbidden;
    SYS_readlink directories::readlink;
    SYS_chmod edits::chmod;
    SYS_fchmod edits::fchmod;
    SYS_chown edits::forbidden;
    SYS_fchown edits::forbidden;
    SYS_lchown edits::forbidden;
    SYS_umask status::umask;
    SYS_gettimeofday time::gettimeofday;
    SYS_getrlimit limits::getrlimit;
    SYS_getrusage time::getrusage;
    SYS_sysinfo limits::sysinfo;
    SYS_times time::times;
    SYS_getuid identity::user;
    SYS_getgid identity::user;
    SYS_setuid identity::set_user;
    SYS_setgid identity::set_user;
    SYS_geteuid identity::user;
    SYS_getegid identity::user;
    SYS_setpgid identity::zero;
    SYS_getppid identity::parent;
    SYS_getpgrp identity::pid;
    SYS_setsid identity::not_permitted;
    SYS_setreuid identity::set_users;
    SYS_setregid identity::set_users;
    SYS_getgroups identity::getgroups;
    SYS_setgroups identity::not_permitted;
    SYS_setresuid identity::set_users;
    SYS_getresuid identity::all_users;
    SYS_setresgid identity::set_users;
    SYS_getresgid identity::all_users;
    SYS_getpgid identity::group_of;
    SYS_getsid identity::group_of;
    SYS_capget identity::capget;
    SYS_capset identity::not_permitted;
    SYS_rt_sigpending signals::rt_sigpending;
    SYS_rt_sigtimedwait signals::rt_sigtimedwait;
    SYS_rt_sigsuspend signals::rt_sigsuspend;
    SYS_sigaltstack signals::sigaltstack;
    SYS_mknod edits::forbidden;
    SYS_personality identity::personality;
    SYS_statfs status::statfs;
    SYS_fstatfs status::fstatfs;
    SYS_getpriority identity::getpriority;
    SYS_setpriority identity::zero;
    SYS_sched_setparam identity::zero;
    SYS_sched_getparam identity::sched_getparam;
    SYS_sched_setscheduler identity::zero;
    SYS_sched_getscheduler identity::zero;
    SYS_sched_get_priority_max identity::zero;
    SYS_sched_get_priority_min identity::zero;
    SYS_mlock memory::nothing_to_do;
    SYS_munlock memory::nothing_to_do;
    SYS_mlockall memory::lock_all;
    SYS_munlockall identity::zero;
    SYS_prctl identity::prctl;
    SYS_arch_prctl identity::arch_prctl;
    SYS_setrlimit limits::setrlimit;
    SYS_gettid identity::pid;
    SYS_tkill signals::tkill;
    SYS_time time::time;
    SYS_futex futex::futex;
    SYS_sched_setaffinity identity::sched_setaffinity;
    SYS_sched_getaffinity identity::sched_getaffinity;
    SYS_epoll_create epoll::epoll_create;
    SYS_getdents64 directories::getdents64;
    SYS_set_tid_address identity::set_tid_address;
    SYS_fadvise64 files::fadvise64;
    SYS_clock_gettime time::clock_gettime;
    SYS_clock_getres time::clock_getres;
    SYS_clock_nanosleep time::clock_nanosleep;
    SYS_exit_group identity::exit;
    SYS_epoll_wait epoll::epoll_wait;
    SYS_epoll_ctl epoll::epoll_ctl;
    SYS_tgkill signals::tgkill;
    SYS_waitid identity::no_children;
    SYS_openat open::openat;
    SYS_mkdirat edits::mkdirat;
    SYS_fchownat edits::forbidden;
    SYS_newfstatat status::newfstatat;
    SYS_unlinkat edits::unlinkat;
    SYS_renameat edits::renameat;
    SYS_linkat edits::forbidden;
    SYS_symlinkat edits::forbidden;
    SYS_readlinkat directories::readlinkat;
    SYS_fchmodat edits::fchmodat;
    SYS_faccessat status::faccessat;
    SYS_pselect6 poll::pselect6;
    SYS_ppoll poll::ppoll;
    SYS_set_robust_list identity::zero;
    SYS_utimensat edits::utimensat;
    SYS_epoll_pwait epoll::epoll_wait;
    SYS_eventfd pipes::eventfd;
    SYS_accept4 sockets::on_descriptor;
    SYS_eventfd2 pipes::eventfd2;
    SYS_epoll_create1 epoll::epoll_create1;
    SYS_dup3 descriptors::dup3;
    SYS_pipe2 pipes::pipe2;
    SYS_preadv files::preadv;
    SYS_pwritev files::pwritev;
    SYS_recvmmsg sockets::on_descriptor;
    SYS_prlimit64 limits::prlimit64;
    SYS_sendmmsg sockets::on_descriptor;
    SYS_getcpu identity::getcpu;
    SYS_renameat2 edits::renameat2;
    SYS_getrandom random::getrandom;
    SYS_execveat identity::not_permitted;
    SYS_membarrier identity::membarrier;
    SYS_preadv2 files::preadv2;
    SYS_pwritev2 files::pwritev2;
    SYS_statx status::statx;
    SYS_rseq quietly_unsupported;
    SYS_clone3 unsupported;
    SYS_close_range descriptors::close_range;
    SYS_faccessat2 status::faccessat2;
    SYS_epoll_pwait2 epoll::epoll_pwait2;
};

/// The call with this number.
pub(super) fn find(number: u64) -> Option<&'static SystemCall> {
    let number = i64::try_from(number).ok()?;
    let index = CALLS
        .binary_search_by_key(&number, |call| call.number)
        .ok()?;
    CALLS.get(index)
}

/// Says once per program that it asked for something that is not there.
pub(super) fn report_unsupported(call: &mut Call<'_>, number: u64) {
    if call.process.facts.first_report_of(number) {
        let name = find(number).map_or("unknown", |call| call.name.trim_start_matches("SYS_"));
        let text = format!("system call {number} ({name}) is not supported: ENOSYS\n");
        files::emit(call, 2, text.as_bytes());
    }
}

/// A call that this version knows and does not have: threads, processes.
fn unsupported(_call: &mut Call<'_>) -> Answer {
    Err(Stop::Unsupported)
}

/// C libraries try these at every start and go on without them.
fn quietly_unsupported(_call: &mut Call<'_>) -> Answer {
    refuse(libc::ENOSYS)
}
