//! Each doubt shown by the byte that causes it, on an image of mke2fs; and bytes that nobody foresaw.
