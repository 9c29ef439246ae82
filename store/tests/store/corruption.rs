//! Any one thing on disk may be damaged: a byte, a file, a directory, one of the two copies put back to yesterday's.
//! There are two copies, so nothing acknowledged may be missing afterwards, nothing may panic, and the next open finds
//! it healthy. `DRAGLINE_CORRUPTIONS=20000` flips that many bytes instead of about 1,500, `all` each byte of each file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::images::*;
use crate::sample;
use crate::traffic;
use crate::trial::{self, Expected, Harm, Taken};

const PAGE: usize = 4096;

/// A store on disk at two instants.
pub(crate) struct Aged {
    pub(crate) name: &'static str,
    pub(crate) yesterday: Image,
    pub(crate) today: Image,
    pub(crate) expected: Expected,
}

/// Goes on with traffic for some lives of the store, each of so many turns.
fn live(path: &Path, expected: &mut Expected, lives: u64, turns: u64) {
    for _ in 0..lives {
        let store = sample::open(path);
        for _ in 0..turns {
            store.commit(traffic::change(expected.seed, expected.acknowledged)).unwrap();
            expected.acknowledged += 1;
        }
        store.close();
    }
}

fn scene(name: &'static str, seed: u64, live: impl FnOnce(&Path, &mut Expected) -> (Image, Image)) -> Arc<Aged> {
    let dir = scratch();
    let mut expected = Expected { seed, acknowledged: 0 };
    let (yesterday, today) = live(dir.path(), &mut expected);
    Arc::new(Aged { name, yesterday, today, expected })
}

/// A store of a few lives, closed.
pub(crate) fn closed() -> Arc<Aged> {
    scene("closed", 1, |dir, expected| {
        let path = dir.join(STORE);
        live(&path, expected, 3, 9);
        let yesterday = Image::taken(dir);
        live(&path, expected, 1, 13);
        (yesterday, Image::taken(dir))
    })
}

/// The same with its writer alive and at rest: what kill -9 leaves.
pub(crate) fn alive() -> Arc<Aged> {
    scene("alive", 2, |dir, expected| {
        let path = dir.join(STORE);
        live(&path, expected, 2, 9);
        let store = sample::open(&path);
        let mut image_after = |turns: u64| {
            for _ in 0..turns {
                store.commit(traffic::change(expected.seed, expected.acknowledged)).unwrap();
                expected.acknowledged += 1;
            }
            at_rest(dir, *expected)
        };
        (image_after(9), image_after(13))
    })
}

/// The same after so many lives that a snapshot has replaced the logs since yesterday.
pub(crate) fn many_lives() -> Arc<Aged> {
    scene("many lives", 3, |dir, expected| {
        let path = dir.join(STORE);
        live(&path, expected, 24, 1);
        let yesterday = Image::taken(dir);
        let snapshot = |image: &Image| image.files().map(|(path, _)| path.clone()).find(|path| is_snapshot(path));
        for _ in 0..20 {
            live(&path, expected, 1, 1);
            if snapshot(&Image::taken(dir)) != snapshot(&yesterday) {
                break;
            }
        }
        assert_ne!(snapshot(&Image::taken(dir)), snapshot(&yesterday), "no snapshot replaces the many logs");
        live(&path, expected, 2, 6);
        (yesterday, Image::taken(dir))
    })
}

fn is_snapshot(path: &Path) -> bool {
    path.starts_with(JOURNAL) && path.to_string_lossy().contains("/snapshot-")
}

/// The files when sled alone has everything: it follows the journal in the background, and nothing but its files says
/// how far it has come.
fn at_rest(dir: &Path, expected: Expected) -> Image {
    for _ in 0..200 {
        std::thread::sleep(Duration::from_millis(10));
        let image = Image::taken(dir);
        if trial::open(&image.clone().without(JOURNAL), expected) == Ok(Taken::Mended) {
            return image;
        }
    }
    panic!("sled does not follow the journal");
}

fn stores() -> [Arc<Aged>; 3] {
    [closed(), alive(), many_lives()]
}

fn harm(aged: &Arc<Aged>, what: String, make: impl FnOnce(&Aged) -> Image + Send + 'static) -> Harm {
    let name = format!("{}: {what}", aged.name);
    let (aged, expected) = (aged.clone(), aged.expected);
    (name, expected, Box::new(move || make(&aged)))
}

/// How many bytes are flipped; None for each.
fn wanted() -> Option<usize> {
    match std::env::var("DRAGLINE_CORRUPTIONS") {
        Ok(all) if all == "all" => None,
        Ok(number) => Some(number.parse().expect("DRAGLINE_CORRUPTIONS is a number or `all`")),
        Err(_) => Some(1500),
    }
}

/// The places of a file that are worth a flip: of pages that hold nothing but zeros one byte each.
fn places(bytes: &[u8], random: &mut Random) -> Vec<usize> {
    let mut places = Vec::new();
    for (page, content) in bytes.chunks(PAGE).enumerate() {
        let from = page * PAGE;
        match content.iter().any(|&byte| byte != 0) {
            true => places.extend(from..from + content.len()),
            false if page % 64 == 0 => places.push(from + random.below(content.len() as u64) as usize),
            false => {}
        }
    }
    places
}

#[test]
fn any_flipped_byte_is_healed() {
    let mut random = Random::seeded();
    let (wanted, mut flips) = (wanted(), Vec::new());
    for aged in stores() {
        for (path, bytes) in aged.today.files() {
            let path = Arc::new(path.clone());
            flips.extend(places(bytes, &mut random).into_iter().map(|at| (aged.clone(), path.clone(), at)));
        }
    }
    let all = flips.len();
    let stride = wanted.map_or(1, |wanted| all.div_ceil(wanted));
    let first = random.below(stride as u64) as usize;
    let mut harms = Vec::new();
    for (aged, path, at) in flips.into_iter().skip(first).step_by(stride) {
        let mask = if random.below(2) == 0 { 0xff } else { 1 << random.below(8) };
        harms.push(harm(&aged, format!("{} byte {at} ^ {mask:#04x}", path.display()), move |aged| {
            let mut image = aged.today.clone();
            image.file(&path)[at] ^= mask;
            image
        }));
    }
    // In no order, so that what the time does not suffice for is spread over all files.
    for last in (1..harms.len()).rev() {
        harms.swap(last, random.below(last as u64 + 1) as usize);
    }
    eprintln!("every {stride}th of {all} bytes from {first} on");
    let limit = Duration::from_secs(if wanted == Some(1500) { 40 } else { 1_000_000 });
    let outcome = trial::run(harms, limit);
    outcome.require("flipped bytes", &[Taken::Unnoticed, Taken::Mended]);
    assert!(outcome.trials() >= 200, "only {} trials in {limit:?}", outcome.trials());
}

#[test]
fn any_file_may_be_cut_emptied_or_deleted() {
    let mut harms = Vec::new();
    for aged in stores() {
        let files: Vec<PathBuf> = aged.today.files().map(|(path, _)| path.clone()).collect();
        for path in &files {
            let name = path.display();
            let len = aged.today.0[path].as_ref().unwrap().len();
            let used = aged.today.0[path].as_ref().unwrap().iter().rposition(|&byte| byte != 0).unwrap_or(0);
            let page = PAGE.min(len);
            let mut lens = vec![0, 1, len / 2, used / 2, used, len.saturating_sub(1)];
            lens.extend([page, used / 3 / PAGE * PAGE, used / PAGE * PAGE, used.next_multiple_of(PAGE).min(len)]);
            lens.retain(|&cut| cut < len);
            lens.sort();
            lens.dedup();
            for cut in lens {
                let path = path.clone();
                harms.push(harm(&aged, format!("{name} cut to {cut} of {len}"), move |aged| {
                    let mut image = aged.today.clone();
                    image.file(&path).truncate(cut);
                    image
                }));
            }
            let gone = path.clone();
            harms.push(harm(&aged, format!("{name} deleted"), move |aged| aged.today.clone().without(gone)));
            let zeros = path.clone();
            harms.push(harm(&aged, format!("{name} zeroed"), move |aged| {
                let mut image = aged.today.clone();
                image.file(&zeros).fill(0);
                image
            }));
        }
    }
    trial::run(harms, Duration::from_secs(600)).require("files", &[Taken::Unnoticed, Taken::Mended]);
}

fn swapped(image: &Image, one: &Path, other: &Path) -> Image {
    let mut image = image.clone();
    let bytes = image.file(one).clone();
    let bytes = std::mem::replace(image.file(other), bytes);
    *image.file(one) = bytes;
    image
}

/// Each pair of files, those of one copy or those of which each belongs to another copy.
fn swaps(within: bool) -> Vec<Harm> {
    let mut harms = Vec::new();
    for aged in stores() {
        let files: Vec<PathBuf> = aged.today.files().map(|(path, _)| path.clone()).collect();
        for (number, one) in files.iter().enumerate() {
            for other in &files[..number] {
                if (one.starts_with(JOURNAL) == other.starts_with(JOURNAL)) == within {
                    let (one, other) = (one.clone(), other.clone());
                    let what = format!("{} swapped with {}", one.display(), other.display());
                    harms.push(harm(&aged, what, move |aged| swapped(&aged.today, &one, &other)));
                }
            }
        }
    }
    harms
}

#[test]
fn any_two_files_of_one_copy_may_be_swapped() {
    trial::run(swaps(true), Duration::from_secs(600)).require("swaps", &[Taken::Unnoticed, Taken::Mended]);
}

#[test]
fn a_directory_in_place_of_a_file_is_healed_or_refused_unchanged() {
    let mut harms = Vec::new();
    for aged in stores() {
        for (path, _) in aged.today.files() {
            let path = path.clone();
            harms.push(harm(&aged, format!("{} made a directory", path.display()), move |aged| {
                let mut image = aged.today.clone();
                image.0.insert(path.clone(), None);
                image.0.insert(path.join("file"), Some(b"somebody's".to_vec()));
                image
            }));
        }
    }
    trial::run(harms, Duration::from_secs(600))
        .require("directories", &[Taken::Unnoticed, Taken::Mended, Taken::Refused]);
}

#[test]
fn yesterdays_file_or_directory_never_brings_back_yesterday() {
    let mut harms = Vec::new();
    for aged in stores() {
        let old: Vec<PathBuf> = aged.yesterday.files().map(|(path, _)| path.clone()).collect();
        for path in old.into_iter().filter(|path| aged.yesterday.0.get(path) != aged.today.0.get(path)) {
            harms.push(harm(&aged, format!("{} of yesterday", path.display()), move |aged| {
                aged.today.clone().with_from(path, &aged.yesterday)
            }));
        }
        for dir in [STORE, JOURNAL] {
            harms.push(harm(&aged, format!("{dir} of yesterday"), move |aged| {
                aged.today.clone().with_from(dir, &aged.yesterday)
            }));
            harms.push(harm(&aged, format!("{dir} deleted"), move |aged| aged.today.clone().without(dir)));
            harms.push(harm(&aged, format!("{dir} emptied"), move |aged| {
                let mut image = aged.today.clone().without(dir);
                image.0.insert(dir.into(), None);
                image
            }));
            // An operator who copies yesterday's files over today's, without removing what is there.
            harms.push(harm(&aged, format!("{dir} of yesterday over it"), move |aged| {
                let mut image = aged.today.clone();
                let old = aged.yesterday.0.iter().filter(|(path, _)| path.starts_with(dir));
                image.0.extend(old.map(|(path, bytes)| (path.clone(), bytes.clone())));
                image
            }));
        }
    }
    trial::run(harms, Duration::from_secs(600)).require("yesterday", &[Taken::Unnoticed, Taken::Mended]);
}

/// Nothing of it is damaged, and it is not what was acknowledged: what is noted beside the store tells.
#[test]
fn yesterdays_whole_store_is_told() {
    let mut harms = Vec::new();
    for aged in stores() {
        harms.push(harm(&aged, "both of yesterday".to_owned(), |aged| {
            aged.today.clone().with_from(STORE, &aged.yesterday).with_from(JOURNAL, &aged.yesterday)
        }));
    }
    trial::run(harms, Duration::from_secs(600)).require("yesterday's store", &[Taken::Lost]);
}

/// What is done to an image.
type Damage = Box<dyn FnOnce(&mut Image) + Send>;

/// A random harm to one file of a directory, or to all of it.
fn somewhere(image: &Image, dir: &'static str, random: &mut Random) -> (String, Damage) {
    let files: Vec<_> = image.files().filter(|(path, bytes)| path.starts_with(dir) && !bytes.is_empty()).collect();
    let (path, bytes) = files[random.below(files.len() as u64) as usize];
    let (path, len, name) = (path.clone(), bytes.len(), path.display().to_string());
    match random.below(6) {
        0 => (format!("{name} deleted"), Box::new(move |image| *image = std::mem::take(image).without(path))),
        1 => (format!("{dir} deleted"), Box::new(move |image| *image = std::mem::take(image).without(dir))),
        2 => {
            let cut = random.below(len as u64) as usize;
            (format!("{name} cut to {cut}"), Box::new(move |image| image.file(&path).truncate(cut)))
        }
        3 => {
            let from = random.below(len.div_ceil(PAGE) as u64) as usize * PAGE;
            let end = (from + PAGE * (1 + random.below(4) as usize)).min(len);
            let what = format!("{name} zeroed from {from} to {end}");
            (what, Box::new(move |image| image.file(&path)[from..end].fill(0)))
        }
        _ => {
            let places = places(bytes, random);
            let at = places[random.below(places.len() as u64) as usize];
            (format!("{name} byte {at} flipped"), Box::new(move |image| image.file(&path)[at] ^= 0xff))
        }
    }
}

/// Two damages, one in each copy, may take something away for good; that has to be said.
#[test]
fn damage_in_both_copies_is_healed_told_or_refused() {
    let mut random = Random::seeded();
    let mut harms = swaps(false);
    for aged in stores() {
        for _ in 0..wanted().unwrap_or(6000) / 7 {
            let (sleds, harm_sled) = somewhere(&aged.today, STORE, &mut random);
            let (journals, harm_journal) = somewhere(&aged.today, JOURNAL, &mut random);
            // Both deleted is no damage but a new store.
            if (sleds.as_str(), journals.as_str()) != ("store deleted", "store.journal deleted") {
                harms.push(harm(&aged, format!("{sleds} and {journals}"), move |aged| {
                    let mut image = aged.today.clone();
                    harm_sled(&mut image);
                    harm_journal(&mut image);
                    image
                }));
            }
        }
    }
    let limit = Duration::from_secs(if wanted() == Some(1500) { 30 } else { 1_000_000 });
    trial::run(harms, limit).require("both copies", &[Taken::Unnoticed, Taken::Mended, Taken::Lost, Taken::Corrupt]);
}
