/* What the extension's generated source includes before our headers. */
#include <errno.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stddef.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
