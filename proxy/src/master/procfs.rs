//! What a process uses, as the kernel tells it below /proc.
#![expect(clippy::disallowed_methods, reason = "a shell: reads /proc")]

/// Zeros where the kernel tells nothing: the process has ended, or /proc is not there.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Use {
    /// Seconds that its first thread was on a processor; a worker has no other.
    pub(super) cpu_s: f64,
    pub(super) resident_bytes: u64,
}

pub(super) fn of(pid: u32) -> Use {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    Use { cpu_s: cpu_s(&read("schedstat")), resident_bytes: resident_bytes(&read("status")) }
}

/// `schedstat` is: nanoseconds on a processor, nanoseconds waited for one, slices.
fn cpu_s(schedstat: &str) -> f64 {
    schedstat.split_ascii_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0) as f64 / 1e9
}

fn resident_bytes(status: &str) -> u64 {
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kib = line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        assert_eq!(cpu_s("2500000000 17 3\n"), 2.5);
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t    1668 kB\nVmData: 1 kB\n"), 1668 * 1024);
        assert_eq!((cpu_s(""), resident_bytes("")), (0.0, 0));
        let own = of(std::process::id());
        assert!(own.resident_bytes > 1 << 16, "{own:?}");
    }
}
