//! Functions (FUNCTION LOAD) belong to an instance, not to a slot: a target that has got none of the source's libraries, since
//! it came later, is given them before the first key, so that FCALL finds them where the keys are.

use super::line::Line;
use cluster::resp::reply::{Elements, text};
use std::collections::BTreeMap;

/// Libraries by name, with their code.
type Libraries = BTreeMap<Vec<u8>, Vec<u8>>;

/// Loads at the target what it lacks, and says what. A library that it has under the same name stays as it is. Errors: in words.
pub(super) async fn carry(source: &mut Line, target: &mut Line) -> Result<Vec<String>, String> {
    let Some(here) = libraries(source).await? else { return Ok(Vec::new()) };
    if here.is_empty() {
        return Ok(Vec::new());
    }
    let there = libraries(target).await?.ok_or_else(|| {
        format!("{}: has no functions, and {} has {} libraries of them", target.addr(), source.addr(), here.len())
    })?;
    let mut carried = Vec::new();
    for (name, code) in here.iter().filter(|(name, _)| !there.contains_key(*name)) {
        target.done(&[b"FUNCTION", b"LOAD", code]).await?;
        carried.push(String::from_utf8_lossy(name).into_owned());
    }
    Ok(carried)
}

/// None: a server without functions (before Redis 7).
async fn libraries(line: &mut Line) -> Result<Option<Libraries>, String> {
    let raw = line.ask(&[b"FUNCTION", b"LIST", b"WITHCODE"]).await?;
    if raw.starts_with(b"-") {
        return Ok(None);
    }
    read(&raw).map(Some).ok_or_else(|| format!("{}: FUNCTION LIST makes no sense", line.addr()))
}

fn read(raw: &[u8]) -> Option<Libraries> {
    Elements::new(raw)?.map(library).collect()
}

fn library(raw: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let parts: Vec<&[u8]> = Elements::new(raw)?.collect();
    let field = |name: &[u8]| {
        let pair = parts.chunks_exact(2).find(|pair| text(pair[0]) == Some(name))?;
        Some(text(pair[1])?.to_vec())
    };
    Some((field(b"library_name")?, field(b"library_code")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_with_their_code() {
        let raw =
            b"*1\r\n*8\r\n$12\r\nlibrary_name\r\n$1\r\nl\r\n$6\r\nengine\r\n$3\r\nLUA\r\n$9\r\nfunctions\r\n*0\r\n\
            $12\r\nlibrary_code\r\n$9\r\n#!lua x\r\n\r\n";
        assert_eq!(read(raw), Some(Libraries::from([(b"l".to_vec(), b"#!lua x\r\n".to_vec())])));
        assert_eq!(read(b"*0\r\n"), Some(Libraries::new()));
        assert_eq!(read(b"+OK\r\n"), None);
    }
}
