/* A place where nothing happens: reads give all ones, writes are dropped. For ports that guests touch only to pass time. */
#ifndef NV_IGNORE_H
#define NV_IGNORE_H

#include "event.h"

/* An nv_serve_fn; the device is NULL. */
int nv_ignore_serve(void *device, uint64_t offset, struct nv_event *event);

#endif
