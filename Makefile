# Caplock. Two targets are all a newcomer needs, without flags: `make demo` and `make test`.
#
#   make            build/caplock, build/libcaplock.a and, once, the guest kernel
#   make demo       installs what is missing, builds, boots a sandbox
#   make test       installs what is missing, builds, runs every test
#   make bench      measures booting and writes build/bench/
#   make fuzz       runs the fuzz targets for FUZZ_SECONDS (60) each
#   make install    PREFIX=/usr/local, DESTDIR=
#   make deps       installs the packages, or says which (not root)
#   make clean

PREFIX ?= /usr/local
FUZZ_SECONDS ?= 60
BUILD := build
CC := gcc
MUSL_CC := musl-gcc

# GNU make's -j, when not given: both cores of a small machine.
MAKEFLAGS += --no-builtin-rules
ifeq ($(filter -j%,$(MAKEFLAGS)),)
MAKEFLAGS += -j$(shell nproc)
endif

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.PHONY: all deps demo test unit corpus e2e bench fuzz install clean kernel

WARN := -Wall -Wextra -Werror -Wshadow -Wformat=2 -Wno-format-nonliteral -Wvla
CFLAGS ?= -O2 -g
HARDEN := -fstack-protector-strong -D_FORTIFY_SOURCE=2 -ftrivial-auto-var-init=zero
ALL_CFLAGS := -std=gnu11 -D_GNU_SOURCE -DCAPLOCK_PREFIX='"$(PREFIX)"' -I. $(WARN) -MMD -MP $(CFLAGS)

LIB_SRC := $(wildcard boot/*.c virtio/*.c vmm/*.c) $(filter-out vmm/cli/%,$(wildcard vmm/*/*.c)) guest/frame.c
CLI_SRC := $(wildcard vmm/cli/*.c)
GUEST_SRC := $(wildcard guest/*.c)
LIBS := -larchive -lext2fs -lcom_err -lseccomp -lnettle -lzstd -lz -lm

all: $(BUILD)/caplock $(BUILD)/libcaplock.a $(BUILD)/vmlinux

# ---- Packages ----

deps:
	@./tests/deps

# ---- Guest kernel: built once, outside the tree ----

kernel: $(BUILD)/vmlinux

$(BUILD)/vmlinux: kernel-config/x86_64.config kernel-config/build.sh kernel-config/check.sh
	@mkdir -p $(@D)
	path=$$(kernel-config/build.sh) && cp "$$path" $@.new && mv $@.new $@

# ---- Guest: PID 1 and agent, in an initramfs ----

$(BUILD)/guest/init: $(GUEST_SRC) $(wildcard guest/*.h) boot/layout.h
	@mkdir -p $(@D)
	$(MUSL_CC) -std=gnu11 -D_GNU_SOURCE -I. -idirafter /usr/include -idirafter /usr/include/x86_64-linux-gnu \
		$(WARN) -Os -static -s -ffunction-sections -Wl,--gc-sections -o $@ $(GUEST_SRC)

$(BUILD)/initramfs.cpio: $(BUILD)/guest/init guest/mkinitramfs
	guest/mkinitramfs $< $@

# ---- Host ----

OBJ = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))

$(BUILD)/obj/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(HARDEN) -fPIE -c -o $@ $<

$(BUILD)/obj/vmm/assets.o: vmm/assets.S $(BUILD)/initramfs.cpio $(BUILD)/base.ext4
	@mkdir -p $(@D)
	$(CC) -DINITRAMFS='"$(BUILD)/initramfs.cpio"' -DBASE_IMAGE='"$(BUILD)/base.ext4"' -c -o $@ $<

$(BUILD)/libcaplock.a: $(call OBJ,$(LIB_SRC)) $(BUILD)/obj/vmm/assets.o
	rm -f $@
	ar rcs $@ $^

$(BUILD)/caplock: $(call OBJ,$(CLI_SRC)) $(BUILD)/libcaplock.a
	$(CC) $(CFLAGS) -static-pie -Wl,-z,relro,-z,now -o $@ $^ $(LIBS)

clean:
	rm -rf $(BUILD)

-include $(wildcard $(BUILD)/obj/*/*.d $(BUILD)/obj/*/*/*.d)
