// SPDX-License-Identifier: Apache-2.0
//! Launch records: any bytes in a memfd are refused or are a record that reads back as it is written.

use ipc::memfd;
use ipc::record::{BlkRecord, InputRecord, Record as _, VmmRecord};

pub(crate) fn run(data: &[u8]) {
    let fd = || memfd::document("record", data).unwrap();
    if let Ok(record) = VmmRecord::read(fd()) {
        let again = VmmRecord::read(record.write().unwrap());
        assert_eq!(again.unwrap(), record);
    }
    if let Ok(record) = InputRecord::read(fd()) {
        let again = InputRecord::read(record.write().unwrap());
        assert_eq!(again.unwrap(), record);
    }
    if let Ok(record) = BlkRecord::read(fd()) {
        let again = BlkRecord::read(record.write().unwrap());
        assert_eq!(again.unwrap(), record);
    }
}
