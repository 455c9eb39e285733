#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| motevm::fuzzing::image_layer(data));
