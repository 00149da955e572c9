//! Which messages of a download are still to be sent, at each point of it.

use super::*;

fn page(ids: &[u64]) -> Page {
    let sender = Username::parse(b"bob").expect("a name");
    let message = |id: &u64| PageMessage { id: MessageId(*id), sender, body: 0..2 };
    Page { messages: ids.iter().map(message).collect(), bytes: b"hi".to_vec(), more: false }
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
    download.add_page(page(&[1]));
    assert!(download.has_next() && !download.exhausted(), "one in the page");
    download.add_page(page(&[2]));
    assert_eq!(take(&mut download), Some(1));
    assert!(download.has_next() && !download.exhausted(), "one in the page behind it");
    assert_eq!(take(&mut download), Some(2));
    assert!(!download.has_next() && download.exhausted());
    assert_eq!(take(&mut download), None);
    download.add_page(page(&[3]));
    download.add_page(page(&[]));
    assert_eq!(take(&mut download), Some(3));
    assert!(!download.has_next() && download.exhausted(), "an empty page behind it is nothing to come");
}

#[test]
fn purged_messages_of_any_page_are_not_sent() {
    let mut download = Download::new(1, 1, false);
    download.add_page(page(&[1, 2, 3, 4]));
    download.add_page(page(&[5, 6]));
    assert_eq!(take(&mut download), Some(1));
    download.drop_unsent(|id| [1, 2, 4, 5].contains(&id.0));
    assert_eq!([take(&mut download), take(&mut download), take(&mut download)], [Some(3), Some(6), None]);
}

#[test]
fn a_download_awaits_a_page_while_its_window_has_room() {
    let mut download = Download::new(1, 2, false);
    assert!(!download.awaits_page(), "nothing is being read");
    download.page_requested = true;
    assert!(download.awaits_page());
    download.unacknowledged.push_back(MessageId(1));
    assert!(download.awaits_page(), "one more may be sent");
    download.unacknowledged.push_back(MessageId(2));
    assert!(!download.awaits_page(), "the window is full");
    download.unacknowledged.pop_front();
    download.add_page(page(&[3]));
    download.page_requested = true;
    assert!(!download.awaits_page(), "the next message is here");
}
