//! Every bound of a copy, and its reason.

/// Keys of one block: more would hold the source up for longer than a slow command does.
pub const BLOCK_KEYS: usize = 64;
/// Bytes of values of one block, as MEMORY USAGE has them. 10 ms of a source at most.
pub const BLOCK_BYTES: u64 = 256 << 10;
/// Blocks under way at the source: it works on one while another's reply travels.
pub const BLOCKS_MAX: usize = 4;
/// What SCAN is asked for at once. About a millisecond of the source.
pub const SCAN_COUNT: &[u8] = b"1000";
/// Keys that wait for a copy; a pass goes on when fewer do.
pub const QUEUE_MAX: usize = 4096;
/// Keys whose sizes are asked for at once, and how many such requests are under way.
pub const SIZES_KEYS: usize = 256;
pub const SIZES_MAX: usize = 2;
/// Bytes the target has not acknowledged: no further blocks are asked for.
pub const UNACKED_BYTES_COPY: usize = 4 << 20;
/// The same, and the stream waits, too.
pub const UNACKED_BYTES_MAX: usize = 32 << 20;
/// Bytes of the stream that wait. A target that is this far behind does not catch up.
pub const JOURNAL_BYTES_MAX: usize = 512 << 20;
/// How long the target's replicas may take to have it all, in milliseconds.
pub const WAIT_MS: u64 = 500;
/// Before that, they are asked so often at most whether they have what was copied, so many milliseconds each: ten seconds.
pub const REHEARSAL_MS: u64 = 200;
pub const REHEARSALS_MAX: u32 = 50;
/// They are asked when no more keys than this are left to copy: as few as a fence begins with.
pub const REHEARSAL_KEYS_MAX: usize = 64;
/// Values of more bytes, as MEMORY USAGE has them, are copied in pieces.
pub const PIECE_FROM: u64 = 256 << 10;
/// A large value's copy begins anew so often; then it is copied as a whole, if that is allowed.
pub const RESTARTS_MAX: u32 = 4;
/// Bytes of a piece, about: a few milliseconds at either side.
pub const PIECE_BYTES: usize = 256 << 10;
