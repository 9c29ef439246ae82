//! A disk with a write cache, and what is left on it when the power goes.
//!
//! A write is on the disk for good once a flush has come after it. Of what was written since, any part may be there when
//! the power is gone, in any order, and of a request any of its sectors.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::random::Random;

/// What a disk writes whole or not at all, in bytes.
const SECTOR: usize = 512;

/// A request that no flush has followed yet.
struct Unflushed {
    offset: u64,
    before: Vec<u8>,
    after: Vec<u8>,
}

/// The disk. Its file shows what a reader sees while the power is on.
pub(super) struct Disk {
    file: File,
    size: u64,
    heeds_flushes: bool,
    unflushed: Vec<Unflushed>,
}

/// What became of the unflushed requests in a power cut.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Loss {
    pub(super) kept: usize,
    pub(super) lost: usize,
    /// Some of their sectors are there.
    pub(super) torn: usize,
}

/// How a cut treats the cache.
#[derive(Debug, Clone, Copy)]
enum Manner {
    /// Nothing more reaches the disk.
    LosesAll,
    /// All of it does: the machine died and the disk did not.
    KeepsAll,
    /// The requests up to here do, in their order.
    KeepsFirst(usize),
    /// So many percent do, whatever their order.
    KeepsSome { percent: u64 },
    /// The same, and of requests with several sectors any of these.
    Tears { percent: u64 },
}

impl Disk {
    /// A disk of as many bytes as the file has; `heeds_flushes` false makes one that lies.
    pub(super) fn new(file: File, heeds_flushes: bool) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self { file, size, heeds_flushes, unflushed: Vec::new() })
    }

    /// In bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    pub(super) fn write(&mut self, offset: u64, after: Vec<u8>) -> io::Result<()> {
        let before = self.read(offset, after.len())?;
        self.file.write_all_at(&after, offset)?;
        self.unflushed.push(Unflushed { offset, before, after });
        Ok(())
    }

    pub(super) fn flush(&mut self) {
        if self.heeds_flushes {
            self.unflushed.clear();
        }
    }

    /// The power goes. What is then on the disk stays.
    pub(super) fn lose_power(&mut self, random: &mut Random) -> io::Result<Loss> {
        for write in self.unflushed.iter().rev() {
            self.file.write_all_at(&write.before, write.offset)?;
        }
        let manner = match random.below(8) {
            0 => Manner::LosesAll,
            1 => Manner::KeepsAll,
            2 => Manner::KeepsFirst(random.below(self.unflushed.len() as u64 + 1) as usize),
            3 | 4 => Manner::KeepsSome { percent: random.below(101) },
            _ => Manner::Tears { percent: random.below(101) },
        };
        let mut loss = Loss::default();
        for (place, write) in std::mem::take(&mut self.unflushed).into_iter().enumerate() {
            let is_kept = match manner {
                Manner::LosesAll => false,
                Manner::KeepsAll => true,
                Manner::KeepsFirst(number) => place < number,
                Manner::KeepsSome { percent } | Manner::Tears { percent } => random.below(100) < percent,
            };
            let sectors = write.after.len() / SECTOR;
            let is_torn = matches!(manner, Manner::Tears { .. }) && sectors > 1 && random.below(2) == 0;
            if is_torn {
                loss.torn += 1;
                self.tear(&write, random)?;
            } else if is_kept {
                loss.kept += 1;
                self.file.write_all_at(&write.after, write.offset)?;
            } else {
                loss.lost += 1;
            }
        }
        Ok(loss)
    }

    /// Writes any sectors of a request, but not all.
    fn tear(&self, write: &Unflushed, random: &mut Random) -> io::Result<()> {
        let missing = random.below((write.after.len() / SECTOR) as u64) as usize;
        for (place, sector) in write.after.chunks(SECTOR).enumerate() {
            if place != missing && random.below(2) == 0 {
                self.file.write_all_at(sector, write.offset + (place * SECTOR) as u64)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(heeds_flushes: bool) -> Disk {
        let path =
            std::env::temp_dir().join(format!("dragline-{}-{:?}", std::process::id(), std::thread::current().id()));
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        file.set_len(64 * 1024).unwrap();
        Disk::new(file, heeds_flushes).unwrap()
    }

    #[test]
    fn what_was_flushed_stays_and_the_rest_may_go() {
        let mut random = Random::new(7);
        let (mut seen_lost, mut seen_kept, mut seen_torn) = (false, false, false);
        for _ in 0..200 {
            let mut disk = disk(true);
            disk.write(4096, vec![1; 4096]).unwrap();
            disk.flush();
            disk.write(4096, vec![2; 2048]).unwrap();
            disk.write(16384, vec![3; 512]).unwrap();
            assert_eq!(disk.read(4096, 1).unwrap(), [2]);
            let loss = disk.lose_power(&mut random).unwrap();
            assert_eq!(loss.kept + loss.lost + loss.torn, 2);
            assert_eq!(disk.read(6144, 2048).unwrap(), [1; 2048]);
            let first = disk.read(4096, 2048).unwrap();
            let new = first.chunks(SECTOR).filter(|sector| **sector == [2; SECTOR]).count();
            let old = first.chunks(SECTOR).filter(|sector| **sector == [1; SECTOR]).count();
            assert_eq!(new + old, 4, "a sector is torn");
            seen_lost |= new == 0;
            seen_kept |= new == 4;
            seen_torn |= new > 0 && new < 4;
        }
        assert!(seen_lost && seen_kept && seen_torn);
    }

    #[test]
    fn a_disk_that_lies_loses_what_was_flushed() {
        let mut random = Random::new(7);
        let lost = (0..50).filter(|_| {
            let mut disk = disk(false);
            disk.write(0, vec![1; 512]).unwrap();
            disk.flush();
            disk.lose_power(&mut random).unwrap();
            disk.read(0, 1).unwrap() == [0]
        });
        assert!(lost.count() > 0);
    }
}
