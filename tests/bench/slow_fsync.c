/* For LD_PRELOAD: fsync and fdatasync take 2 ms longer, as on a disk that many share. */

#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int sync_later(long call, int fd)
{
    struct timespec delay = {0, 2000000};

    nanosleep(&delay, NULL);
    return syscall(call, fd);
}

int fsync(int fd)
{
    return sync_later(SYS_fsync, fd);
}

int fdatasync(int fd)
{
    return sync_later(SYS_fdatasync, fd);
}
