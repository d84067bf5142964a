//! What needs the kernel's own words: workers by fork and exec, memory shared with them, descriptors that arrive as
//! bare numbers. The only file with `unsafe`.
#![allow(unsafe_code, reason = "each block says why it holds")]
#![expect(clippy::disallowed_methods, reason = "a shell: starts processes")]

use crate::stats;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, SealFlag, fcntl};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::{ForkResult, Pid, ftruncate, getpid, getppid};
use std::ffi::c_void;
use std::io::{self, IoSliceMut};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// One worker's statistics, as `stats::WORDS` numbers in memory that master and worker both see. It outlives the
/// worker: the next one goes on from it (`Stats::resumed`).
pub struct SharedPage {
    at: NonNull<c_void>,
}

// SAFETY: the memory is only ever seen as atomics, and stays mapped until the only owner drops it.
unsafe impl Send for SharedPage {}
// SAFETY: as above.
unsafe impl Sync for SharedPage {}

const PAGE_BYTES: usize = stats::WORDS * size_of::<AtomicU64>();

impl SharedPage {
    /// A page of zeros, and the descriptor by which another process maps it.
    pub fn create() -> io::Result<(Self, OwnedFd)> {
        let fd = memfd_create("twemslot-stats", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        ftruncate(&fd, PAGE_BYTES as libc::off_t)?;
        // A page that somebody shortens would kill its readers with SIGBUS.
        fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW))?;
        Ok((Self::map(&fd)?, fd))
    }

    /// Maps a page made by `create`, here or in another process. A page of another size, from a binary with other
    /// statistics, is refused.
    pub fn map(fd: &OwnedFd) -> io::Result<Self> {
        let size = std::fs::File::from(fd.try_clone()?).metadata()?.len();
        if size != PAGE_BYTES as u64 {
            let why = format!("a statistics page of {size} bytes, not {PAGE_BYTES}: from another version");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let length = NonZeroUsize::new(PAGE_BYTES).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let at =
            unsafe { mmap(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, fd, 0)? };
        Ok(Self { at })
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: `at` is page-aligned, mapped for PAGE_BYTES until drop, sealed against shrinking, zeroed by the
        // kernel, and every process sees it as atomics only.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr().cast::<AtomicU64>(), stats::WORDS) }
    }

    /// Copies `words` into the page, from word `at` on; words beyond its end are dropped.
    pub fn publish(&self, at: usize, words: &[u64]) {
        for (to, from) in self.words().iter().skip(at).zip(words) {
            to.store(*from, Ordering::Relaxed);
        }
    }

    /// All words as they are now. Each is whole; two may be some microseconds apart.
    pub fn read(&self) -> Vec<u64> {
        self.words().iter().map(|w| w.load(Ordering::Relaxed)).collect()
    }

    /// One word, for those who need no more.
    pub fn word(&self, at: usize) -> u64 {
        self.words().get(at).map_or(0, |w| w.load(Ordering::Relaxed))
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        // SAFETY: mapped by us with this length, and no reference outlives `self`.
        if let Err(e) = unsafe { munmap(self.at, PAGE_BYTES) } {
            tracing::error!(error = %e, "munmap of a statistics page");
        }
    }
}

impl std::fmt::Debug for SharedPage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SharedPage({:p})", self.at)
    }
}

/// Starts a worker: this same binary, executed anew with `--worker-fd N`, where N is its end of the control socket
/// and the only descriptor it inherits beside standard output and error.
///
/// Executed anew because a bare fork of a process with threads hangs when another thread holds a lock.
/// The worker dies by SIGKILL with the master: a worker without a master would go on serving a topology that nobody
/// can change any more, which breaks the promise that a slot's old owner takes no writes after the switch; and a
/// signal that could be handled might be handled late.
pub fn spawn_worker(control: OwnedFd, name: &str) -> io::Result<u32> {
    let fd = control.as_raw_fd();
    let master = getpid();
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name).args(["--worker-fd", &fd.to_string()]).stdin(Stdio::null());
    command.process_group(0); // Ctrl-C in a terminal is for the master, which then drains its workers
    // SAFETY: between fork and exec only calls that are safe in a signal handler are made, and no memory is taken:
    // prctl, getppid, sigprocmask, fcntl.
    unsafe { command.pre_exec(move || before_exec(fd, master)) };
    Ok(command.spawn()?.id()) // reaped by the master's loop, not by `Child`
}

fn before_exec(control: RawFd, master: Pid) -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != master {
        return Err(Errno::ESRCH.into()); // the master died before prctl: nobody would tell us to die
    }
    SigSet::empty().thread_set_mask()?;
    // SAFETY: the parent owns `control` and holds it until spawn returns.
    let control = unsafe { BorrowedFd::borrow_raw(control) };
    set_inherited(control, true)
}

/// Whether the descriptor lives on when this process executes another program.
pub fn set_inherited(fd: BorrowedFd<'_>, inherited: bool) -> io::Result<()> {
    let flags = if inherited { FdFlag::empty() } else { FdFlag::FD_CLOEXEC };
    fcntl(fd, FcntlArg::F_SETFD(flags))?;
    Ok(())
}

/// Takes a descriptor that the program before us, or the one that started us, left open under this number. To be
/// called once for a number.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number < 3 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("descriptor {number} is a standard stream")));
    }
    // SAFETY: only asks the kernel about a number; a closed one gives EBADF.
    let open = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    Errno::result(open)?;
    // SAFETY: it is open, and by the caller's word nobody else in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Reads one packet and the descriptor beside it, which gets close-on-exec. 0 bytes: the peer has closed.
pub(crate) fn receive(from: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let packet = recvmsg::<()>(from.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut fds = Vec::new();
    for part in packet.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = part {
            // SAFETY: the kernel has just made these numbers for us.
            fds.extend(numbers.into_iter().map(|n| unsafe { OwnedFd::from_raw_fd(n) }));
        }
    }
    Ok((packet.bytes, fds.pop()))
}

/// Which side of `detach` one is.
pub enum Side {
    /// Called from the terminal; its argument is the pipe on which the daemon says one byte when it serves.
    Caller(OwnedFd),
    /// Goes on in the background.
    Daemon(OwnedFd),
}

/// Forks into the background, in a session of its own. Must be called before any thread is started.
pub fn detach() -> io::Result<Side> {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: by the caller's word there is no other thread that could hold a lock in the child.
    match unsafe { nix::unistd::fork()? } {
        ForkResult::Parent { .. } => Ok(Side::Caller(reader)),
        ForkResult::Child => {
            nix::unistd::setsid()?;
            Ok(Side::Daemon(writer))
        }
    }
}

/// Points the standard streams at /dev/null, once nothing more is to be said on the caller's terminal.
pub fn silence_standard_streams() -> io::Result<()> {
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(null.as_fd())?;
    nix::unistd::dup2_stdout(null.as_fd())?;
    nix::unistd::dup2_stderr(null.as_fd())?;
    Ok(())
}

/// Gives the pages that the allocator keeps for later back to the system.
pub fn give_memory_back() {
    // SAFETY: takes no pointer, touches only the allocator's own free pages, and may be called at any time.
    unsafe { libmimalloc_sys::mi_collect(true) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_seen_by_both_sides() {
        let (mine, fd) = SharedPage::create().expect("memfd");
        let theirs = SharedPage::map(&fd).expect("map");
        theirs.publish(0, &[1, 7]);
        theirs.publish(1, &[2, 3]);
        assert_eq!(mine.read()[..4], [1, 2, 3, 0]);
        assert_eq!((mine.word(1), mine.word(stats::WORDS)), (2, 0));
        theirs.publish(0, &vec![9; stats::WORDS + 5]);
        assert!(mine.read().iter().all(|w| *w == 9));
    }

    #[test]
    fn a_page_of_another_size_is_refused() {
        let fd = memfd_create("short", MFdFlags::MFD_CLOEXEC).expect("memfd");
        let refusal = SharedPage::map(&fd).expect_err("too short").to_string();
        assert!(refusal.contains("another version"), "{refusal}");
    }

    #[test]
    fn only_open_numbers_are_taken() {
        assert!(inherited(1).is_err());
        assert_eq!(inherited(987_654).expect_err("closed").raw_os_error(), Some(libc::EBADF));
        let (_reader, writer) = nix::unistd::pipe().expect("pipe");
        let number = std::os::fd::IntoRawFd::into_raw_fd(writer);
        assert_eq!(inherited(number).expect("open").as_raw_fd(), number);
    }
}
