/* The files that are part of the program. The paths are given by the Makefile. Page-aligned: only used pages are read. */
	.section .rodata.assets, "a", @progbits

	.balign 4096
	.globl asset_initramfs, asset_initramfs_end
asset_initramfs:
	.incbin INITRAMFS
asset_initramfs_end:

	.balign 4096
	.globl asset_base_image, asset_base_image_end
asset_base_image:
	.incbin BASE_IMAGE
asset_base_image_end:

	.section .note.GNU-stack, "", @progbits
