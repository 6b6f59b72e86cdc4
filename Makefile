# Caplock. Two targets are all a newcomer needs, without flags: `make demo` and `make test`.
#
#   make            build/caplock, build/libcaplock.a and, once, the guest kernel
#   make demo       installs what is missing, builds, boots a sandbox
#   make test       installs what is missing, builds, runs every test
#   make bench      measures booting, the network and interception, and writes build/bench/
#   make fuzz       runs the fuzz targets for FUZZ_SECONDS (60) each
#   make install    PREFIX=/usr/local, DESTDIR=
#   make deps       installs the packages, or says which (not root)
#   make clean

PREFIX ?= /usr/local
FUZZ_SECONDS ?= 60
BUILD := build
CC := gcc
MUSL_CC := musl-gcc

MAKEFLAGS += --no-builtin-rules

# One line per file; V=1 shows the commands.
Q := $(if $(V),,@)
say = $(if $(V),,@echo '  $(1) $@')

# GNU make's -j, when not given: all cores.
ifeq ($(MAKELEVEL)$(filter -j%,$(MAKEFLAGS)),0)
MAKEFLAGS += -j$(shell nproc)
endif

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.PHONY: all deps demo test bench fuzz fuzzers guests install clean kernel

WARN := -Wall -Wextra -Werror -Wshadow -Wformat=2 -Wno-format-nonliteral -Wvla
CFLAGS ?= -O2 -g
HARDEN := -fstack-protector-strong -D_FORTIFY_SOURCE=2 -ftrivial-auto-var-init=zero
ALL_CFLAGS := -std=gnu11 -D_GNU_SOURCE -DCAPLOCK_PREFIX='"$(PREFIX)"' -I. $(WARN) -MMD -MP $(CFLAGS)

LIB_SRC := $(wildcard boot/*.c virtio/*.c virtio/net/*.c vmm/*.c) $(filter-out vmm/cli/%,$(wildcard vmm/*/*.c)) guest/frame.c
# What reads flows is a program of its own, with the libraries that it needs. The rest of the gate is in both.
GATE_SRC := $(addprefix virtio/net/gate/,$(addsuffix .c,ca client client_http2 conn exchange http2 intercept trust upstream upstream_http2))
LIB_SRC += $(filter-out $(GATE_SRC) virtio/net/gate/main.c,$(wildcard virtio/net/gate/*.c))
GATE_LIBS := -lssl -lcrypto -lnghttp2
CLI_SRC := $(wildcard vmm/cli/*.c)
GUEST_SRC := $(wildcard guest/*.c)
LIBS := -larchive -lcares -lext2fs -lcom_err -lseccomp -lnettle -lzstd -lz -lm

all: $(BUILD)/caplock $(BUILD)/caplock-gate $(BUILD)/libcaplock.a $(BUILD)/vmlinux

# ---- Packages ----

deps:
	@tests/deps

# The targets of a newcomer install first and build after, in a make of its own: what is installed may be a compiler.
demo: deps
	@$(MAKE) --no-print-directory all
	@tests/demo

test: deps
	@$(MAKE) --no-print-directory all $(BUILD)/unit-tests fuzzers guests
	@tests/run

bench: deps
	@$(MAKE) --no-print-directory all
	@bench/boot
	@bench/net
	@bench/https

# ---- Guest kernel: built once, outside the tree ----

kernel: $(BUILD)/vmlinux

$(BUILD)/vmlinux: kernel-config/x86_64.config kernel-config/build.sh kernel-config/check.sh kernel-config/boot-order \
		$(wildcard kernel-config/patches/*.patch)
	@mkdir -p $(@D)
	$(Q)path=$$(kernel-config/build.sh) && cp "$$path" $@.new && mv $@.new $@

# ---- Guest: PID 1 and agent, in an initramfs ----

$(BUILD)/guest/init: $(GUEST_SRC) $(wildcard guest/*.h) boot/layout.h vmm/machine/status.h
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(MUSL_CC) -std=gnu11 -D_GNU_SOURCE -I. -idirafter /usr/include -idirafter /usr/include/x86_64-linux-gnu \
		$(WARN) -Os -static -s -ffunction-sections -Wl,--gc-sections -o $@ $(GUEST_SRC)

$(BUILD)/initramfs.cpio: $(BUILD)/guest/init guest/mkinitramfs
	$(Q)guest/mkinitramfs $< $@

# ---- Host ----

OBJ = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))

$(BUILD)/obj/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(ALL_CFLAGS) $(HARDEN) -fPIE -c -o $@ $<

# Policies that are part of the program.
$(patsubst %,$(BUILD)/%/virtio/net/presets.o,obj san fuzz): $(wildcard virtio/net/presets/*.json)

# Where the library looks for its kernel is compiled in.
.PHONY: FORCE
$(BUILD)/prefix: FORCE
	@mkdir -p $(@D)
	@echo '$(PREFIX)' | cmp -s - $@ || echo '$(PREFIX)' >$@

$(BUILD)/obj/vmm/sandbox/kernel.o $(BUILD)/obj/vmm/sandbox/installed.o: $(BUILD)/prefix

$(BUILD)/obj/vmm/assets.o: vmm/assets.S $(BUILD)/initramfs.cpio $(BUILD)/base.ext4
	@mkdir -p $(@D)
	$(Q)$(CC) -DINITRAMFS='"$(BUILD)/initramfs.cpio"' -DBASE_IMAGE='"$(BUILD)/base.ext4"' -c -o $@ $<

# Seccomp programs, made here because making them takes longer than starting a sandbox.
$(BUILD)/mkfilters: vmm/jail/tools/mkfilters.c vmm/jail/jail.h Makefile
	@mkdir -p $(@D)
	$(Q)$(CC) $(filter-out -MMD -MP,$(ALL_CFLAGS)) -o $@ $< -lseccomp

$(BUILD)/filters.c: $(BUILD)/mkfilters
	$(Q)$< >$@

FILTERS := $(BUILD)/obj/filters.o

$(FILTERS): $(BUILD)/filters.c vmm/jail/jail.h
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) -fPIE -c -o $@ $<

$(BUILD)/libcaplock.a: $(call OBJ,$(LIB_SRC)) $(BUILD)/obj/vmm/assets.o $(FILTERS)
	$(Q)rm -f $@
	$(call say,AR)
	$(Q)ar rcs $@ $^

$(BUILD)/caplock: $(call OBJ,$(CLI_SRC)) $(BUILD)/libcaplock.a
	$(call say,LD)
	$(Q)$(CC) $(CFLAGS) -static-pie -Wl,-z,relro,-z,now -o $@ $^ $(LIBS)

$(BUILD)/caplock-gate: $(call OBJ,$(GATE_SRC) virtio/net/gate/main.c) $(BUILD)/libcaplock.a
	$(call say,LD)
	$(Q)$(CC) $(CFLAGS) -static-pie -Wl,-z,relro,-z,now,--no-warnings -o $@ $^ $(GATE_LIBS) $(LIBS)

# The built-in base image, written by the same code as imported ones.
$(BUILD)/mkbase: $(BUILD)/obj/vmm/image/tools/mkbase.o $(call OBJ,$(LIB_SRC)) $(FILTERS)
	$(Q)$(CC) $(CFLAGS) -o $@ $(filter-out %/sandbox.o %/lib.o %/base_image.o,$^) $(LIBS)

$(BUILD)/base.ext4: $(BUILD)/mkbase
	$(Q)$< $@

install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/caplock $(DESTDIR)$(PREFIX)/include \
		$(DESTDIR)$(PREFIX)/share/man/man1
	install -s $(BUILD)/caplock $(DESTDIR)$(PREFIX)/bin/caplock
	install -s $(BUILD)/caplock-gate $(DESTDIR)$(PREFIX)/lib/caplock/caplock-gate
	install -m 644 $(BUILD)/libcaplock.a $(DESTDIR)$(PREFIX)/lib/libcaplock.a
	strip --strip-debug $(DESTDIR)$(PREFIX)/lib/libcaplock.a
	install -m 644 $(BUILD)/vmlinux $(DESTDIR)$(PREFIX)/lib/caplock/vmlinux
	install -m 644 vmm/caplock.h $(DESTDIR)$(PREFIX)/include/caplock.h
	install -m 644 vmm/cli/caplock.1 $(DESTDIR)$(PREFIX)/share/man/man1/caplock.1

# ---- Tests: the library with sanitizers, under Criterion (gcc) and under libFuzzer (clang) ----

SAN := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -O1 -g
TEST_SRC := $(wildcard tests/unit/*.c) $(LIB_SRC) $(GATE_SRC) vmm/cli/env.c vmm/cli/secret.c $(filter-out guest/init.c guest/frame.c,$(GUEST_SRC))
SAN_OBJ = $(patsubst %.c,$(BUILD)/san/%.o,$(1))

$(BUILD)/san/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(ALL_CFLAGS) $(SAN) -c -o $@ $<

$(BUILD)/unit-tests: $(call SAN_OBJ,$(TEST_SRC)) $(BUILD)/obj/vmm/assets.o $(FILTERS)
	$(call say,LD)
	$(Q)$(CC) $(SAN) -o $@ $^ -lcriterion $(GATE_LIBS) $(LIBS)

# Tiny guests: kernels of a few lines.
GUESTS := $(patsubst tests/guests/%.c,$(BUILD)/guests/%.elf,$(wildcard tests/guests/*.c))

guests: $(GUESTS)

$(BUILD)/guests/%.elf: tests/guests/%.c tests/guests/guest.h boot/layout.h
	@mkdir -p $(@D)
	$(Q)$(CC) -std=gnu11 -I. $(WARN) -O1 -ffreestanding -fno-stack-protector -fno-pic -mno-red-zone -mgeneral-regs-only \
		-mcmodel=large -nostdlib -static -no-pie -Wl,-Ttext-segment=0x200000,-estart,--build-id=none -o $@ $<

# Executes system calls in a process that is not ours.
guests: $(BUILD)/inject

$(BUILD)/inject: tests/escape/inject.c
	@mkdir -p $(@D)
	$(Q)$(CC) -std=gnu11 -D_GNU_SOURCE $(WARN) -O1 -static -o $@ $<

FUZZERS := $(patsubst tests/fuzz/%.c,$(BUILD)/%,$(wildcard tests/fuzz/fuzz_*.c))
FUZZ_SRC := $(filter-out vmm/lib.c vmm/sandbox/sandbox.c,$(LIB_SRC)) $(GATE_SRC)
FUZZ_OBJ = $(patsubst %.c,$(BUILD)/fuzz/%.o,$(1))

fuzzers: $(FUZZERS)

$(BUILD)/fuzz/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)clang $(ALL_CFLAGS) -Wno-gnu-variable-sized-type-not-at-end -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -O1 -c -o $@ $<

$(BUILD)/fuzz.a: $(call FUZZ_OBJ,$(FUZZ_SRC)) $(FILTERS)
	$(Q)rm -f $@
	$(call say,AR)
	$(Q)ar rcs $@ $^

$(BUILD)/fuzz_%: $(BUILD)/fuzz/tests/fuzz/fuzz_%.o $(BUILD)/fuzz.a
	$(call say,LD)
	$(Q)clang -fsanitize=fuzzer,address,undefined -o $@ $^ $(GATE_LIBS) $(LIBS)

fuzz: deps
	@$(MAKE) --no-print-directory fuzzers
	@tests/fuzz/run $(FUZZ_SECONDS)

clean:
	rm -rf $(BUILD)

.SECONDARY:
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
