//! Kernel images and their entry points, the initrd, the command line.
