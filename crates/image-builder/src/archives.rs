//! Archives that `ADD` unpacks: recognised by their bytes, not by their names, as every builder does.

use std::fs::{self, File};
use std::io::{self, BufReader, Cursor, Read};
use std::path::Path;

use bzip2::read::MultiBzDecoder;
use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;

/// The archive's uncompressed bytes; none when the file is no tar archive.
pub(crate) fn open(path: &Path) -> io::Result<Option<Box<dyn Read + Send>>> {
    if !fs::metadata(path)?.is_file() {
        return Ok(None);
    }
    let mut reader = decompress(path)?;
    let mut block = [0; 512];
    let mut have = 0;
    while have < block.len() {
        // A file that only looks compressed is no archive either; an archive that is damaged later fails when read.
        match reader.read(&mut block[have..]) {
            Ok(0) | Err(_) => return Ok(None),
            Ok(count) => have += count,
        }
    }
    Ok(is_header(&block).then(|| Box::new(Cursor::new(block).chain(reader)) as Box<dyn Read + Send>))
}

fn decompress(path: &Path) -> io::Result<Box<dyn Read + Send>> {
    let mut start = Vec::new();
    File::open(path)?.take(6).read_to_end(&mut start)?;
    let file = BufReader::with_capacity(1 << 20, File::open(path)?);
    Ok(match start.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(file)),
        [b'B', b'Z', b'h', ..] => Box::new(MultiBzDecoder::new(file)),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Box::new(XzReader::new(file, true)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::stream::read::Decoder::with_buffer(file)?),
        _ => Box::new(file),
    })
}

/// A tar header carries the sum of its own bytes, with spaces where the sum is.
fn is_header(block: &[u8; 512]) -> bool {
    let sum: u32 =
        block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) }).sum();
    let header = tar::Header::from_byte_slice(block);
    block[0] != 0 && header.cksum().is_ok_and(|own| own == sum)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn archive() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(4);
        header.set_mode(0o644);
        builder.append_data(&mut header, "file", &b"text"[..]).unwrap();
        builder.into_inner().unwrap()
    }

    fn opened(bytes: &[u8]) -> Option<Vec<u8>> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let mut found = Vec::new();
        open(file.path()).unwrap()?.read_to_end(&mut found).unwrap();
        Some(found)
    }

    #[test]
    fn archives_are_known_in_every_packing() {
        let plain = archive();
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&plain).unwrap();
        let mut bz = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bz.write_all(&plain).unwrap();
        let zst = zstd::encode_all(plain.as_slice(), 3).unwrap();
        for packed in [plain.clone(), gz.finish().unwrap(), bz.finish().unwrap(), zst] {
            assert_eq!(opened(&packed).unwrap(), plain);
        }
    }

    #[test]
    fn what_is_no_archive_is_left_alone() {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&vec![b'x'; 2000]).unwrap();
        let mut damaged = archive();
        damaged[0] ^= 1;
        for bytes in
            [Vec::new(), vec![0; 1024], vec![b'x'; 1024], gz.finish().unwrap(), vec![0x1f, 0x8b, 1, 2], damaged]
        {
            assert_eq!(opened(&bytes), None);
        }
    }
}
