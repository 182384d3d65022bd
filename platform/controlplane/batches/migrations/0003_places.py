from django.db import migrations, models
import django.db.models.deletion


class Migration(migrations.Migration):

    dependencies = [
        ('batches', '0002_unsure_lines'),
    ]

    operations = [
        migrations.AddField(
            model_name='batch',
            name='place',
            field=models.BinaryField(null=True),
        ),
        migrations.AlterField(
            model_name='line',
            name='batch',
            field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='lines', to='batches.batch'),
        ),
        migrations.AddConstraint(
            model_name='line',
            constraint=models.UniqueConstraint(fields=('batch', 'number'), name='line_once'),
        ),
    ]
