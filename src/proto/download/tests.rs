//! What of a download is still to come, at each point of it.

use super::*;

fn page(ids: &[u64]) -> Page {
    let sender = Username::parse(b"bob").expect("a name");
    let message = |id: &u64| PageMessage { id: MessageId(*id), sender, body: 0..2 };
    Page { messages: ids.iter().map(message).collect(), bytes: b"hi".to_vec() }
}

fn take(download: &mut Download) -> Option<u64> {
    download.take_next().map(|(id, _, body)| {
        assert_eq!(body, b"hi");
        id.0
    })
}

#[test]
fn a_download_is_exhausted_only_when_no_page_holds_a_message() {
    let mut download = Download::new(1, 1, false);
    assert!(!download.has_next() && download.exhausted());
    download.add(page(&[1]));
    assert!(download.has_next() && !download.exhausted(), "one in the page");
    download.add(page(&[2]));
    assert_eq!(take(&mut download), Some(1));
    assert!(download.has_next() && !download.exhausted(), "one in the page behind it");
    assert_eq!(take(&mut download), Some(2));
    assert!(!download.has_next() && download.exhausted());
    assert_eq!(take(&mut download), None);
    download.add(page(&[3]));
    download.add(page(&[]));
    assert_eq!(take(&mut download), Some(3));
    assert!(!download.has_next() && download.exhausted(), "an empty page behind it is nothing to come");
}

#[test]
fn what_is_purged_is_not_sent_whichever_page_it_is_in() {
    let mut download = Download::new(1, 1, false);
    download.add(page(&[1, 2, 3, 4]));
    download.add(page(&[5, 6]));
    assert_eq!(take(&mut download), Some(1));
    download.drop_unsent(|id| [1, 2, 4, 5].contains(&id.0));
    assert_eq!([take(&mut download), take(&mut download), take(&mut download)], [Some(3), Some(6), None]);
}

#[test]
fn it_is_starved_while_its_window_waits_for_a_page() {
    let mut download = Download::new(1, 2, false);
    assert!(!download.starved(), "nothing is being read");
    download.reading = true;
    assert!(download.starved());
    download.unacknowledged.push_back(MessageId(1));
    assert!(download.starved(), "one more may be sent");
    download.unacknowledged.push_back(MessageId(2));
    assert!(!download.starved(), "the window is full");
    download.unacknowledged.pop_front();
    download.add(page(&[3]));
    download.reading = true;
    assert!(!download.starved(), "the next message is here");
}
