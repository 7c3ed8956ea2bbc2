//! Input: a header of the PROXY protocol. More bytes never change the result, and a header that is
//! written from the result reads as the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pen_config::proxy::ProxyOut;
use pen_worker::parts::{MOST, read, write};

fuzz_target!(|data: &[u8]| {
    let whole = read(data);
    for cut in 0..data.len().min(600) {
        match read(&data[..cut]) {
            Ok(None) => {}
            said => return assert_eq!(said, whole),
        }
    }
    let Ok(Some((length, Some(origin)))) = whole else { return };
    assert!(length <= data.len() && length <= MOST);
    for version in [ProxyOut::V1, ProxyOut::V2] {
        let mut bytes = Vec::new();
        write(version, Some(&origin), &mut bytes);
        let (end, again) = read(&bytes).expect("what is written is a header").expect("it is whole");
        let again = again.expect("it names the client");
        assert_eq!(
            (end, again.client.port(), again.local.port()),
            (bytes.len(), origin.client.port(), origin.local.port())
        );
        assert_eq!(again.client.ip().to_canonical(), origin.client.ip().to_canonical());
        assert_eq!(again.local.ip().to_canonical(), origin.local.ip().to_canonical());
    }
});
