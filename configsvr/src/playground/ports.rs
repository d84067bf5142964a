//! Ports: is one free, who has it, and blocks of free ones that no other playground of this machine takes.
#![expect(clippy::disallowed_methods, reason = "a shell: binds ports, locks files, reads /proc")]

use super::process;
use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;

/// Blocks are taken from here unless `TWEMSLOT_PORTS=FROM-TO` says otherwise: above the ports of well-known services
/// and below 32768, where Linux begins to give ports to outgoing connections.
const RANGE: Range<u16> = 12000..32000;
/// Ports are given out in strips of so many: what two groups of two and all that is reserved take.
const STRIP: u16 = 25;

/// Ports that no other playground, and nobody else who asks here, takes as long as this lives.
#[derive(Debug)]
pub struct Block {
    pub(super) base: u16,
    _locks: Vec<Flock<File>>,
}

impl Block {
    /// So many free ports in a row, for servers that are started by hand.
    ///
    /// Errors: there are none left.
    pub fn of(span: u16) -> Result<Self> {
        reserve(span.into(), 0).map(|(block, _)| block)
    }

    /// The port at a place of it, on this machine.
    pub fn at(&self, place: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.base + place).into()
    }
}

/// The first `Block` from `from` on (a number of tries, to go on behind one that turned out to be taken) that has
/// `span` free ports, and the `from` to go on with.
pub(super) fn reserve(span: u32, from: u32) -> Result<(Block, u32)> {
    let range = range()?;
    let strips = u32::from((range.end - range.start) / STRIP);
    let need = span.div_ceil(u32::from(STRIP));
    let places = (strips + 1).saturating_sub(need);
    for i in from..places {
        // Side by side started test programs have neighbouring pids: a stride keeps them from queueing for one strip.
        let strip = (std::process::id().wrapping_mul(37) % places + i) % places;
        if let Some(block) = try_strips(range.start, strip, need)? {
            return Ok((block, i + 1));
        }
    }
    bail!("no {span} free ports in a row in {range:?}: stop something, or set TWEMSLOT_PORTS=FROM-TO")
}

fn try_strips(start: u16, first: u32, need: u32) -> Result<Option<Block>> {
    let dir = std::env::temp_dir().join(format!("twemslot-ports-{}", nix::unistd::getuid()));
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let mut locks = Vec::new();
    for strip in first..first + need {
        let base = start + strip as u16 * STRIP;
        let path = dir.join(base.to_string());
        let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else { return Ok(None) };
        locks.push(lock);
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if !(base..base + STRIP).all(|port| is_free(at(port))) {
            return Ok(None);
        }
    }
    Ok(Some(Block { base: start + first as u16 * STRIP, _locks: locks }))
}

fn range() -> Result<Range<u16>> {
    let Ok(text) = std::env::var("TWEMSLOT_PORTS") else { return Ok(RANGE) };
    let ends = text.split_once('-').and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse::<u16>().ok()?)));
    let (from, to): (u16, u16) = ends.with_context(|| format!("TWEMSLOT_PORTS is {text:?}: write FROM-TO"))?;
    anyhow::ensure!(from > 0 && from < to && to < u16::MAX, "TWEMSLOT_PORTS is {text:?}: write FROM-TO, 1 to 65534");
    Ok(from..to + 1)
}

/// Whether we could listen there.
pub(super) fn is_free(addr: SocketAddr) -> bool {
    TcpListener::bind(addr).is_ok()
}

/// Who listens there, as ` by NAME (pid N)`; empty where that cannot be seen (another user's process).
pub(super) fn holder(addr: SocketAddr) -> String {
    let found = socket_inode(addr.port()).and_then(|inode| {
        let entries = fs::read_dir("/proc").ok()?;
        let mut pids = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
        pids.find(|pid| holds(*pid, inode))
    });
    let Some(pid) = found else { return String::new() };
    let line = process::command_line(pid).unwrap_or_default();
    format!(" by pid {pid} ({})", line.chars().take(80).collect::<String>())
}

/// The inode of the socket that listens on a port, from `/proc/net/tcp`: local address is the second field, state the
/// fourth (0A: listening), inode the tenth.
fn socket_inode(port: u16) -> Option<u64> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    tables.iter().flat_map(|table| table.lines()).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let local = fields.get(1)?.rsplit_once(':')?.1;
        let ours = u16::from_str_radix(local, 16) == Ok(port) && *fields.get(3)? == "0A";
        if ours { fields.get(9)?.parse().ok() } else { None }
    })
}

fn holds(pid: i32, inode: u64) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    entries.flatten().any(|e| {
        let target = fs::read_link(e.path()).ok();
        target.and_then(|t| Some(t.to_str()? == format!("socket:[{inode}]"))).unwrap_or(false)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_seen_with_its_holder() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("any port");
        let addr = listener.local_addr().expect("bound");
        assert!(!is_free(addr));
        assert!(holder(addr).contains(&format!("pid {}", std::process::id())), "{:?}", holder(addr));
        drop(listener);
        // A process that another test is starting holds a copy until it has become its program.
        let free = || Ok(if is_free(addr) { Ok(()) } else { Err("busy".to_owned()) });
        process::until("the port", std::time::Duration::from_secs(5), free).expect("free again");
    }

    #[test]
    fn blocks_do_not_overlap() {
        let blocks: Vec<Block> = (0..3).map(|_| reserve(u32::from(STRIP) / 2, 0).expect("free").0).collect();
        for (i, a) in blocks.iter().enumerate() {
            assert!(blocks[i + 1..].iter().all(|b| a.base.abs_diff(b.base) >= STRIP), "{blocks:?}");
        }
    }
}
