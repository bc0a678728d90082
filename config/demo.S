/* demo: the embedded demo model: the bytes of its files, and the table demo_files of config/demo.h
 * (the layout of a row is asserted in demo.c). Each file starts on a page, so that tensors keep the
 * alignment they have in the file and untouched pages cost no memory. Paths are relative to the
 * repository's root: assemble there. */

/* One file: its name and bytes into .rodata, its row into the table. The sections are switched by
 * name, so that the rows lie next to each other in the order of the calls. */
        .macro  file name
        .section .rodata
.Lname\@:
        .asciz  "\name"
        .balign 4096
.Ldata\@:
        .incbin "config/demo/\name"
.Lend\@:
        .byte   0
        .section .data.rel.ro, "aw", %progbits
        .quad   .Lname\@, .Ldata\@, .Lend\@ - .Ldata\@
        .endm

        .section .data.rel.ro, "aw", %progbits
        .balign 16
        .globl  demo_files
        .type   demo_files, %object
demo_files:
        file    config.json
        file    generation_config.json
        file    model.safetensors
        file    special_tokens_map.json
        file    tokenizer.json
        file    tokenizer.model
        file    tokenizer_config.json
demo_files_end:
        .size   demo_files, demo_files_end - demo_files

        .section .rodata
        .balign 8
        .globl  demo_n_files
        .type   demo_n_files, %object
demo_n_files:
        .quad   (demo_files_end - demo_files) / 24
        .size   demo_n_files, 8

        .section .note.GNU-stack, "", %progbits
